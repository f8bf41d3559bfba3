package stack

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"capv-static-ip.dev/tests/harness"
)

const vcenterProgram = "vcenter"

// VCenter is a simulated vCenter whose virtual machines have guests: each reads
// its metadata when it is powered on, and reports its addresses. It has one
// template, the one that machines of the fixtures are cloned from.
type VCenter struct {
	*harness.Process
	// Server is where the vSphere API is served, as a VSphereCluster names it.
	Server string
	// Username and Password are who may use it.
	Username, Password string

	state string
}

// VM is a virtual machine that exists; the template is none.
type VM struct {
	// ID is unique for ever; the name of a virtual machine can come again.
	ID string `json:"id"`
	// Name is the name that CAPV gave it.
	Name string `json:"name"`
	// UUID is the BIOS UUID, as in a providerID.
	UUID string `json:"uuid"`
	// PoweredOn tells whether it runs.
	PoweredOn bool `json:"poweredOn"`
	// Metadata is its guestinfo.metadata, decoded.
	Metadata string `json:"metadata"`
	// Addresses are those in its metadata, each with its prefix length.
	Addresses []string `json:"addresses"`
	// Networks are the names of those that its cards are connected to, in their order.
	Networks []string `json:"networks"`
	// Reported are the addresses that its guest says it has.
	Reported []string `json:"reported"`
}

// VMEventKind is what happened to a virtual machine.
type VMEventKind string

// What the simulator tells of.
const (
	VMCreated VMEventKind = "created"
	// VMConfigured is when it is given metadata, other than before.
	VMConfigured VMEventKind = "configured"
	VMPoweredOn  VMEventKind = "poweredOn"
	VMPoweredOff VMEventKind = "poweredOff"
	VMDestroyed  VMEventKind = "destroyed"
)

// VMEvent is something that happened to a virtual machine. The simulator notes
// it while it makes the change, so the order is that of the changes.
type VMEvent struct {
	// Sequence counts from 1.
	Sequence int         `json:"sequence"`
	Time     time.Time   `json:"time"`
	Kind     VMEventKind `json:"kind"`
	// ID and Name are those of the virtual machine.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Addresses are those in its metadata at that time.
	Addresses []string `json:"addresses"`
}

// startVCenter starts a vCenter. It ends with this control plane, and may be used
// by others, too.
func startVCenter(ctx context.Context, plane *harness.ControlPlane) (*VCenter, error) {
	dir, err := os.MkdirTemp(plane.Dir, "vcenter-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the vCenter: %w", err)
	}
	certPath, keyPath, err := plane.ServingFiles(vcenterProgram)
	if err != nil {
		return nil, err
	}
	api, err := plane.Address()
	if err != nil {
		return nil, err
	}
	state, err := plane.Address()
	if err != nil {
		return nil, err
	}
	v := &VCenter{Server: api, state: "http://" + state, Username: "administrator@vsphere.local", Password: rand.Text()}
	v.Process, err = plane.StartProgram(ctx, harness.Program{
		Name: vcenterProgram, Binary: vcenterProgram,
		Args: []string{
			"-address=" + v.Server,
			"-state-address=" + state,
			"-tls-cert-file=" + certPath,
			"-tls-private-key-file=" + keyPath,
			"-username=" + v.Username,
			"-password=" + v.Password,
			"-template=" + harness.Machine("", "").Spec.Template,
			"-dir=" + dir,
		},
		ReadyURL: v.state + "/readyz",
	})
	return v, err
}

// startCAPV starts CAPV with the rights to use a vCenter.
func startCAPV(ctx context.Context, plane *harness.ControlPlane, vcenter *VCenter, args ...string) (*harness.Provider, error) {
	path := filepath.Join(plane.Dir, "capv-credentials.yaml")
	content := fmt.Sprintf("username: %q\npassword: %q\n", vcenter.Username, vcenter.Password)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return nil, fmt.Errorf("writing the credentials of CAPV: %w", err)
	}
	return plane.StartProvider(ctx, harness.CAPV, append([]string{"--credentials-file=" + path}, args...)...)
}

// StateURL is where the vCenter tells of its virtual machines, as JSON: /vms
// and /events.
func (v *VCenter) StateURL() string { return v.state }

// VMs lists the virtual machines that exist, by their names.
func (v *VCenter) VMs(ctx context.Context) ([]VM, error) {
	var list []VM
	return list, v.get(ctx, "/vms", &list)
}

// Events lists what happened after the event with that sequence number; from
// the beginning if it is 0.
func (v *VCenter) Events(ctx context.Context, after int) ([]VMEvent, error) {
	var list []VMEvent
	return list, v.get(ctx, "/events?after="+strconv.Itoa(after), &list)
}

func (v *VCenter) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.state+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking the vCenter: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the vCenter: %s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// Destroy powers a virtual machine off and destroys it, as a person does who finds it there.
func (v *VCenter) Destroy(ctx context.Context, vm VM) error {
	at := &url.URL{Scheme: "https", Host: v.Server, Path: "/sdk", User: url.UserPassword(v.Username, v.Password)}
	client, err := govmomi.NewClient(ctx, at, true)
	if err != nil {
		return fmt.Errorf("logging in to the vCenter: %w", err)
	}
	defer func() { _ = client.Logout(ctx) }()
	machine := object.NewVirtualMachine(client.Client, types.ManagedObjectReference{Type: "VirtualMachine", Value: vm.ID})
	for _, do := range []func(context.Context) (*object.Task, error){machine.PowerOff, machine.Destroy} {
		task, err := do(ctx)
		if err == nil {
			err = task.Wait(ctx)
		}
		if err != nil {
			return fmt.Errorf("destroying virtual machine %s: %w", vm.Name, err)
		}
	}
	return nil
}
