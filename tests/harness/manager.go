package harness

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"capv-static-ip.dev/tests/programs"
)

// ManagerOptions says how a manager differs from the usual one.
type ManagerOptions struct {
	// Namespace limits what the manager watches; all namespaces if empty.
	Namespace string
	// OrphanGracePeriod is how long a claim without a machine is left alone;
	// the manager's own default if 0.
	OrphanGracePeriod time.Duration
	// WithoutLeaderElection makes the manager run its controller at once.
	WithoutLeaderElection bool
	// Verbosity is the level of its log, 2 if 0.
	Verbosity int
	// Args are appended to the manager's flags.
	Args []string
	// OwnClock gives the manager a clock that can be wrong, see SetClock.
	OwnClock bool
	// Through is a forwarder to the API server, see APIServerForwarder, by which
	// the manager reaches it; directly if nil.
	Through *Forwarder
	// Confined gives the manager the environment that its Deployment sets, which
	// tells it of its memory limit. See PeakMemory.
	Confined bool
	// WithoutTraffic keeps the manager from being called by the API server
	// until somebody adds its WebhookAddress to the forwarder.
	WithoutTraffic bool
}

// Manager is one replica of capv-static-ip.
type Manager struct {
	*Process
	// WebhookAddress is where the replica serves admission.
	WebhookAddress string

	installation *Installation
	options      ManagerOptions
	health       string
	diagnostics  string
}

// Leadership changes hands sooner here than after the 15 s of production, but
// not so soon that a leader on a busy machine loses it, and with it its life.
const (
	leaseDuration = 10 * time.Second
	// RenewDeadline is for how long a leader that cannot say so goes on. Then it ends.
	RenewDeadline = 8 * time.Second
	retryPeriod   = time.Second
)

// drainDelay is short too: our forwarder knows at once that a replica stops,
// where the endpoints of a Service take seconds.
const drainDelay = 500 * time.Millisecond

// StartManager starts a replica of the manager, under exactly the rights of its
// ServiceAccount, and sends it traffic once it is ready.
func (i *Installation) StartManager(ctx context.Context, options ManagerOptions) (*Manager, error) {
	var ports [3]int
	for n := range ports {
		port, err := i.plane.ports.take()
		if err != nil {
			return nil, err
		}
		ports[n] = port
	}
	binary, name, err := i.nextManager(ctx, options.OwnClock)
	if err != nil {
		return nil, err
	}
	manager := &Manager{
		WebhookAddress: loopback(ports[0]),
		health:         loopback(ports[1]),
		diagnostics:    loopback(ports[2]),
		installation:   i,
		options:        options,
	}
	args, err := manager.args(ports[0])
	if err != nil {
		return nil, err
	}
	manager.Process = &Process{
		Name:    name,
		LogPath: filepath.Join(i.plane.Dir, name+".log"),
		path:    binary,
		args:    args,
		ready:   answers(http.DefaultTransport, "http://"+manager.health+"/readyz"),
	}
	if options.Confined {
		manager.env = i.limits.env
	}
	if err := i.plane.run(ctx, manager.Process); err != nil {
		return nil, err
	}
	manager.takeTraffic()
	return manager, nil
}

// AllocationVariable is the environment variable that has managers run with this value of
// --metal3-allocation.
const AllocationVariable = "METAL3_ALLOCATION"

func (m *Manager) args(webhookPort int) ([]string, error) {
	kubeconfig := m.installation.identity.Kubeconfig
	if m.options.Through != nil {
		var err error
		if kubeconfig, err = m.installation.identity.through(m.options.Through); err != nil {
			return nil, err
		}
	}
	verbosity := m.options.Verbosity
	if verbosity == 0 {
		verbosity = 2
	}
	args := []string{
		"--kubeconfig=" + kubeconfig,
		"--webhook-host=127.0.0.1",
		"--webhook-port=" + strconv.Itoa(webhookPort),
		"--webhook-cert-dir=" + m.installation.certificateDir,
		"--health-addr=" + m.health,
		"--diagnostics-address=" + m.diagnostics,
		"--insecure-diagnostics",
		"--drain-delay=" + drainDelay.String(),
		"-v=" + strconv.Itoa(verbosity),
	}
	if m.options.Namespace != "" {
		args = append(args, "--namespace="+m.options.Namespace)
	}
	if m.options.OrphanGracePeriod != 0 {
		args = append(args, "--orphan-grace-period="+m.options.OrphanGracePeriod.String())
	}
	if allocation := os.Getenv(AllocationVariable); allocation != "" {
		args = append(args, "--metal3-allocation="+allocation)
	}
	if !m.options.WithoutLeaderElection {
		args = append(args,
			"--leader-elect",
			"--leader-elect-namespace="+SystemNamespace,
			"--leader-elect-lease-duration="+leaseDuration.String(),
			"--leader-elect-renew-deadline="+RenewDeadline.String(),
			"--leader-elect-retry-period="+retryPeriod.String(),
		)
	}
	return append(args, m.options.Args...), nil
}

// Start starts the replica again after Stop or Kill, at the same addresses.
func (m *Manager) Start(ctx context.Context) error {
	if err := m.Process.Start(ctx); err != nil {
		return err
	}
	m.takeTraffic()
	return nil
}

func (m *Manager) takeTraffic() {
	if !m.options.WithoutTraffic {
		m.installation.Forwarder.AddBackend(m.WebhookAddress)
	}
}

// SetClock says by how much the clock of a replica with OwnClock is ahead, from its next
// start on. It must not run.
func (m *Manager) SetClock(ahead time.Duration) {
	prefix := programs.ClockVariable + "="
	others := slices.DeleteFunc(slices.Clone(m.env), func(entry string) bool { return strings.HasPrefix(entry, prefix) })
	m.env = slices.Concat(others, []string{prefix + strconv.Itoa(int(ahead.Seconds()))})
}

// Stop ends the replica as a rolling update does: it gets no new connections,
// finishes what it has begun, and exits. An exit status other than 0 is an error.
func (m *Manager) Stop() error {
	m.installation.Forwarder.RemoveBackend(m.WebhookAddress)
	return m.Process.Stop()
}

// Ready tells whether the replica says that it can serve, and why not.
func (m *Manager) Ready(ctx context.Context) error {
	if err := m.ready(ctx); err != nil {
		return fmt.Errorf("asking %s if it is ready: %w", m.Name, err)
	}
	return nil
}

// MetricsAddress is where the replica serves its metrics, without authentication.
func (m *Manager) MetricsAddress() string { return m.diagnostics }
