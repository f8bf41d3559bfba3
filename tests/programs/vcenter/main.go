// Command vcenter is a vCenter for tests: govmomi's simulator, with a template
// to clone, and with what the simulator does not have, a guest in every virtual
// machine. The guest reads its metadata as cloud-init does, and reports its
// addresses as VMware Tools do. See guest.go. It also clones as CAPV means it, see
// clone.go. Its clusters are zones, with a network and a tag for each, see zones.go.
//
// Beside the vSphere API it serves, over plain HTTP on another address, what
// happened: see record.go.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	_ "github.com/vmware/govmomi/pbm/simulator" // registers the endpoint
	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/cluster/simulator" // registers the endpoint
	_ "github.com/vmware/govmomi/vapi/simulator"         // registers the endpoint
	"github.com/vmware/govmomi/vim25/types"
)

// options are the program's flags.
type options struct {
	address, stateAddress string
	certPath, keyPath     string
	username, password    string
	template, dir         string
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:0", "address of the vSphere API")
	flag.StringVar(&o.stateAddress, "state-address", "127.0.0.1:0", "address of /vms, /events and /readyz")
	flag.StringVar(&o.certPath, "tls-cert-file", "", "certificate of the vSphere API")
	flag.StringVar(&o.keyPath, "tls-private-key-file", "", "its key")
	flag.StringVar(&o.username, "username", "", "who may log in")
	flag.StringVar(&o.password, "password", "", "with what")
	flag.StringVar(&o.template, "template", "", "name of the template to clone")
	flag.StringVar(&o.dir, "dir", "", "folder for the simulator's datastore")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vcenter:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	// The simulator makes its datastore in the folder for temporary files.
	if err := os.Setenv("TMPDIR", o.dir); err != nil {
		return err
	}
	model, err := inventory()
	if err != nil {
		return err
	}
	defer model.Remove()
	server, err := listen(model, o)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := prepare(ctx, server.URL, o.template); err != nil {
		return fmt.Errorf("preparing the inventory: %w", err)
	}
	recorder := newRecorder(networkNames(model.Map()))
	model.Map().AddHandler(recorder)
	go newGuests(ctx, model.Map(), recorder).run(ctx)
	return serveState(ctx, o.stateAddress, recorder)
}

// inventory is one datacenter with a cluster of three hosts and a network for each
// zone, DC0_C0 and DC0_DVPG0 and so on, and a machine in each cluster.
func inventory() (*simulator.Model, error) {
	model := simulator.VPX()
	model.Host, model.Machine, model.Autostart = 0, 1, false
	model.Cluster, model.Portgroup = len(zones()), len(zones())
	if err := model.Create(); err != nil {
		return nil, fmt.Errorf("making the inventory: %w", err)
	}
	return model, nil
}

func listen(model *simulator.Model, o options) (*simulator.Server, error) {
	cert, err := tls.LoadX509KeyPair(o.certPath, o.keyPath)
	if err != nil {
		return nil, fmt.Errorf("loading the certificate: %w", err)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	model.Service.Listen = &url.URL{Host: o.address, User: url.UserPassword(o.username, o.password)}
	model.Service.RegisterEndpoints = true
	model.Map().Handler = ownDisks
	return model.Service.NewServer(), nil
}

// prepare does what an administrator would: it makes a template of the first machine,
// destroys the others, and tags the zones.
func prepare(ctx context.Context, server *url.URL, template string) error {
	client, err := govmomi.NewClient(ctx, server, true)
	if err != nil {
		return err
	}
	defer func() { _ = client.Logout(ctx) }()
	machines, err := find.NewFinder(client.Client).VirtualMachineList(ctx, "/DC0/vm/*")
	if err != nil {
		return err
	}
	for _, machine := range machines[1:] {
		if err := wait(ctx, machine.Destroy); err != nil {
			return fmt.Errorf("destroying %s: %w", machine.Name(), err)
		}
	}
	if err := makeTemplate(ctx, machines[0], template); err != nil {
		return fmt.Errorf("making the template: %w", err)
	}
	return tagZones(ctx, client.Client, server.User)
}

func makeTemplate(ctx context.Context, machine *object.VirtualMachine, name string) error {
	err := wait(ctx, func(ctx context.Context) (*object.Task, error) {
		return machine.Reconfigure(ctx, types.VirtualMachineConfigSpec{Name: name})
	})
	if err != nil {
		return err
	}
	return machine.MarkAsTemplate(ctx)
}

func wait(ctx context.Context, start func(context.Context) (*object.Task, error)) error {
	task, err := start(ctx)
	if err != nil {
		return err
	}
	return task.Wait(ctx)
}

func serveState(ctx context.Context, address string, recorder *recorder) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /vms", recorder.serveVMs)
	mux.HandleFunc("GET /events", recorder.serveEvents)
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the state: %w", err)
	}
	return nil
}
