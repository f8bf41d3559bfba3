package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"capv-static-ip.dev/tests/programs"
)

// Options says how a control plane differs from the usual one.
type Options struct {
	// AdmissionPlugins are enabled beyond the default ones, for example
	// OwnerReferencesPermissionEnforcement.
	AdmissionPlugins []string
	// APIServerArgs are appended to those of kube-apiserver.
	APIServerArgs []string
	// WithoutMetal3 leaves the provider's API out, see InstallMetal3CRDs.
	WithoutMetal3 bool
	// WithoutInCluster leaves the pools of the in-cluster provider out, see
	// InstallInClusterCRDs.
	WithoutInCluster bool
	// WholeStack prepares for the managers of CAPI, CAPV and cert-manager to run:
	// it installs the APIs of cert-manager and clusterctl, too, and makes the API
	// server ask each manager to convert between the versions of its APIs. Until
	// they run, only one version of each API can be used.
	WholeStack bool
	// ClaimVersion is the only version in which IPAddressClaims and IPAddresses
	// are served, as on an older Cluster API; all versions if empty.
	ClaimVersion string
	// OldCAPV installs the APIs of CAPV 1.15, the last that serves v1beta1 alone.
	OldCAPV bool
	// OldCAPI installs the APIs of Cluster API 1.10, the last that serves v1beta1
	// alone. Neither IPAM provider that is built here runs on it.
	OldCAPI bool
	// WebhookClient is whom the certificate is for that the API server shows to
	// webhooks; it shows none if empty.
	WebhookClient string
	// ControllerAccounts has each controller of kube-controller-manager act as its
	// own ServiceAccount, as it does in a cluster, and not as the administrator.
	ControllerAccounts bool
	// AuditLog has the API server note every request that it answers, see
	// ControlPlane.AuditLog.
	AuditLog bool
	// Progress receives a line for each step that takes long; os.Stderr if nil.
	Progress io.Writer
	// KeepFiles leaves the control plane's folder, with all logs, after Stop.
	KeepFiles bool
}

func (o *Options) without(provider string) bool {
	switch provider {
	case metal3IPAM:
		return o.WithoutMetal3
	case inClusterIPAM:
		return o.WithoutInCluster
	default:
		return false
	}
}

// definedBy is the provider whose definitions are installed in the place of another's.
func (o *Options) definedBy(p provider) provider {
	switch {
	case o.OldCAPV && p.module == capvModule:
		p.family = "capv-1.15"
	case o.OldCAPI && p.module == capiModule:
		p.family = "cluster-api-1.10"
	}
	return p
}

// ControlPlane is a running etcd, kube-apiserver and kube-controller-manager
// (garbage collector and namespaces), with the APIs of CAPI, CAPV and the IPAM
// providers.
type ControlPlane struct {
	// Config has all rights and no client-side throttle.
	Config *rest.Config
	// Client has all rights, and knows the types of Scheme.
	Client client.WithWatch
	// Kubeconfig is the path of a file for Config.
	Kubeconfig string
	// Dir holds everything that belongs to this control plane: keys, etcd's
	// data, and the log of each process.
	Dir string
	// KeepFiles leaves Dir in place after Stop.
	KeepFiles bool

	options   Options
	builder   *programs.Builder
	ports     *ports
	dirLock   *os.File
	authority *authority
	apiPort   int
	// webhookClients signs what the API server shows to webhooks.
	webhookClients *authority

	etcd              *Process
	etcdURL           string
	apiServer         *Process
	controllerManager *Process

	mu        sync.Mutex
	endpoints map[string]*endpoint
	processes []*Process
	closers   []io.Closer
	stopped   bool
}

// Start starts a control plane and installs the APIs that a management cluster
// with CAPV and metal3 has. It is stopped by Stop, and when ctx ends.
func Start(ctx context.Context, options Options) (*ControlPlane, error) {
	if options.Progress == nil {
		options.Progress = os.Stderr
	}
	// What envtest does is said by our own errors; without a logger it complains.
	log.SetLogger(logr.Discard())
	c, err := newControlPlane(options)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("starting the control plane: %w", errors.Join(err, c.Stop()))
	}
	context.AfterFunc(ctx, func() { _ = c.Stop() })
	return c, nil
}

func newControlPlane(options Options) (*ControlPlane, error) {
	builder, err := programs.NewBuilder(options.Progress)
	if err != nil {
		return nil, err
	}
	ports, err := newPorts()
	if err != nil {
		return nil, err
	}
	dir, lock, err := newRunDir()
	if err != nil {
		return nil, err
	}
	authority, err := newAuthority("capv-static-ip harness, control plane")
	if err != nil {
		return nil, err
	}
	webhookClients, err := newAuthority("capv-static-ip harness, clients of webhooks")
	if err != nil {
		return nil, err
	}
	return &ControlPlane{
		Dir: dir, KeepFiles: options.KeepFiles, dirLock: lock,
		options: options, builder: builder, ports: ports, authority: authority, webhookClients: webhookClients,
		endpoints: map[string]*endpoint{},
	}, nil
}

func (c *ControlPlane) start(ctx context.Context) error {
	binaries := map[string]string{}
	for _, name := range []string{"kustomize", "etcd", "kube-apiserver", "kube-controller-manager"} {
		path, err := c.builder.Path(ctx, name)
		if err != nil {
			return err
		}
		binaries[name] = path
	}
	// Reading the APIs' definitions costs about as much as starting the servers.
	var definitions manifests
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		definitions, err = c.definitions(groupCtx)
		return err
	})
	group.Go(func() error {
		etcd, err := c.startEtcd(groupCtx, binaries["etcd"])
		if err != nil {
			return err
		}
		return c.startAPIServer(groupCtx, binaries["kube-apiserver"], etcd)
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	if err := c.installCRDs(ctx, definitions); err != nil {
		return err
	}
	// It looks for new APIs only every half minute, so it comes after them.
	return c.startControllerManager(ctx, binaries["kube-controller-manager"])
}

// RestartAPIServer stops kube-apiserver and starts it again, on the same port
// and the same etcd.
func (c *ControlPlane) RestartAPIServer(ctx context.Context) error {
	if err := c.apiServer.Stop(); err != nil {
		return err
	}
	return c.apiServer.Start(ctx)
}

// APIServer returns the process of kube-apiserver.
func (c *ControlPlane) APIServer() *Process { return c.apiServer }

// Etcd returns the process of etcd, and where it answers without any credentials.
func (c *ControlPlane) Etcd() (process *Process, url string) { return c.etcd, c.etcdURL }

// APIServerForwarder starts a forwarder to the API server, for whoever is to be
// cut off from it.
func (c *ControlPlane) APIServerForwarder() (*Forwarder, error) {
	forwarder, err := c.NewForwarder()
	if err != nil {
		return nil, err
	}
	forwarder.SetBackends(loopback(c.apiPort))
	return forwarder, nil
}

// ControllerManager returns the process of kube-controller-manager, whose
// garbage collector a test may want to pause.
func (c *ControlPlane) ControllerManager() *Process { return c.controllerManager }

// Kubectl returns the path of a kubectl of the control plane's version.
func (c *ControlPlane) Kubectl(ctx context.Context) (string, error) {
	return c.builder.Path(ctx, "kubectl")
}

// Root returns the project's folder.
func (c *ControlPlane) Root() string { return c.builder.Root }

// KeepLogs keeps the logs for whoever reads an error, and says in it where they
// are. What an interrupt broke needs none.
func (c *ControlPlane) KeepLogs(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	c.KeepFiles = true
	return fmt.Errorf("%w\n  logs are in: %s", err, c.Dir)
}

// Stop ends everything that was started on this control plane. Nothing of it is
// needed any more, so nothing is given time to tidy up.
func (c *ControlPlane) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	for _, closer := range c.closers {
		_ = closer.Close()
	}
	for _, process := range slices.Backward(c.processes) {
		process.Kill()
	}
	c.ports.release()
	defer c.dirLock.Close()
	if c.KeepFiles {
		return nil
	}
	return os.RemoveAll(c.Dir)
}

// KillAllBut ends all processes but one without any warning, as if the machines that they run on
// were lost. What it keeps ends with Stop.
func (c *ControlPlane) KillAllBut(kept *Process) {
	c.mu.Lock()
	processes := slices.Clone(c.processes)
	c.mu.Unlock()
	for _, process := range slices.Backward(processes) {
		if process != kept {
			process.Kill()
		}
	}
}

// run starts a process that ends with the control plane.
func (c *ControlPlane) run(ctx context.Context, process *Process) error {
	if process.LogPath == "" {
		process.LogPath = filepath.Join(c.Dir, process.Name+".log")
	}
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return fmt.Errorf("starting %s: the control plane has been stopped", process.Name)
	}
	c.processes = append(c.processes, process)
	c.mu.Unlock()
	err := process.Start(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		process.Kill()
	}
	return err
}

// closeLater closes something when the control plane stops.
func (c *ControlPlane) closeLater(closer io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closers = append(c.closers, closer)
}

// DumpLogs writes the last lines of each process's log.
func (c *ControlPlane) DumpLogs(to io.Writer, lines int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range c.processes {
		fmt.Fprintf(to, "--- %s (%s)\n%s\n", process.Name, process.LogPath, process.LogTail(lines))
	}
}

// LogsAbout is every line that a process logged in which this text is, as a rule
// the namespace of a test.
func (c *ControlPlane) LogsAbout(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var about strings.Builder
	for _, process := range c.processes {
		log, err := os.ReadFile(process.LogPath)
		if err != nil {
			fmt.Fprintf(&about, "%s: %v\n", process.Name, err)
			continue
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, text) {
				about.WriteString(process.Name + ": " + line)
			}
		}
	}
	return about.String()
}

// staleAfter is how long the folder of a run that was cut short stays, for
// people to read its logs.
const staleAfter = time.Hour

// planePrefix begins the names of the folders of control planes.
const planePrefix = "plane-"

// runsDir is the folder of all that runs for this user on this machine, whatever
// cache of programs it uses.
func runsDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("capv-static-ip-%d", os.Getuid()))
}

// newRunDir makes a folder for one control plane, locked while it is in use,
// and removes those that earlier runs could not remove.
func newRunDir() (string, *os.File, error) {
	base := runsDir()
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, fmt.Errorf("making a folder for the control plane: %w", err)
	}
	removeStale(base)
	dir, err := os.MkdirTemp(base, planePrefix)
	if err != nil {
		return "", nil, fmt.Errorf("making a folder for the control plane: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return "", nil, fmt.Errorf("locking the control plane's folder: %w", err)
	}
	return dir, lock, nil
}

func removeStale(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), planePrefix) || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		dir := filepath.Join(base, entry.Name())
		if lock, err := lockFile(filepath.Join(dir, "lock")); err == nil {
			_ = os.RemoveAll(dir)
			_ = lock.Close()
		}
	}
}
