package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // adds --logging-format=json
	"k8s.io/klog/v2"
	"sigs.k8s.io/cluster-api/util/flags"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
)

// version is set by the linker, see Makefile.
var version = "unknown"

// safeGracePeriod is the API server's own limit for a request, one minute unless
// its --request-timeout says otherwise, and some. A claim that is deleted before
// may be that of a machine which is still being stored.
const safeGracePeriod = 75 * time.Second

// The values of --metal3-allocation.
const (
	allocationByClaim   = "claim"
	allocationByAddress = "address"
)

// options are the command line, with flags named as CAPI's providers name them.
type options struct {
	namespace  string
	syncPeriod time.Duration

	leaderElect          bool
	leaderElectNamespace string
	leaseDuration        time.Duration
	renewDeadline        time.Duration
	retryPeriod          time.Duration

	webhookHost         string
	webhookPort         int
	webhookCertDir      string
	webhookClientCAFile string
	webhookClientNames  []string
	healthAddr          string
	profilerAddr        string
	diagnostics         flags.ManagerOptions

	kubeAPIQPS   float32
	kubeAPIBurst int

	orphanGracePeriod time.Duration
	reuseAfter        time.Duration
	metal3Allocation  string
	drainDelay        time.Duration
	capacityWarnings  bool

	logging     *logs.Options
	showVersion bool
}

func parseOptions(args []string) (*options, error) {
	opts := &options{logging: logs.NewOptions()}
	fs := pflag.NewFlagSet("capv-static-ip", pflag.ContinueOnError)
	opts.addFlags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if len(fs.Args()) > 0 {
		return nil, fmt.Errorf("reading the command line: unexpected argument %q", fs.Arg(0))
	}
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("reading the command line: %w", err)
	}
	return opts, nil
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.namespace, "namespace", "",
		"Namespace to watch and serve. All namespaces if empty.")
	fs.DurationVar(&o.syncPeriod, "sync-period", 10*time.Minute,
		"Interval at which all watched objects are reconciled even if nothing changed.")

	fs.BoolVar(&o.leaderElect, "leader-elect", false,
		"Elect one replica to run the controllers. All replicas serve admission.")
	fs.StringVar(&o.leaderElectNamespace, "leader-elect-namespace", "",
		"Namespace of the leader election lease. The pod's own if empty; needed outside a cluster.")
	fs.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", 15*time.Second,
		"Time after which another replica may take over from a leader that does not renew.")
	fs.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", 10*time.Second,
		"Time for which a leader tries to renew before it gives up and exits.")
	fs.DurationVar(&o.retryPeriod, "leader-elect-retry-period", 2*time.Second,
		"Time between tries to become or to stay the leader.")

	fs.StringVar(&o.webhookHost, "webhook-host", "",
		"Address the webhook server binds to. All interfaces if empty.")
	fs.IntVar(&o.webhookPort, "webhook-port", 9443,
		"Port of the webhook server.")
	fs.StringVar(&o.webhookCertDir, "webhook-cert-dir", "/tmp/k8s-webhook-server/serving-certs/",
		"Directory with tls.crt and tls.key of the webhook server. They are loaded again when they change.")
	fs.StringVar(&o.webhookClientCAFile, "webhook-client-ca-file", "",
		"File with the authority (PEM) of those who may call the webhook: everybody else is refused. It is loaded again when it changes. Everybody may call if empty.")
	fs.StringSliceVar(&o.webhookClientNames, "webhook-client-name", nil,
		"Name (common name or DNS name) that the certificate of who calls the webhook must be for. May be repeated. Any name if not given.")
	fs.StringVar(&o.healthAddr, "health-addr", ":9440",
		"Address of the health endpoints /healthz and /readyz.")
	fs.StringVar(&o.profilerAddr, "profiler-address", "",
		"Address of the pprof profiler, e.g. localhost:6060. It is open to everybody who reaches that address. None if empty.")
	o.addDiagnosticsFlags(fs)

	fs.Float32Var(&o.kubeAPIQPS, "kube-api-qps", 100,
		"Sustained requests per second to the API server.")
	fs.IntVar(&o.kubeAPIBurst, "kube-api-burst", 200,
		"Burst of requests to the API server.")

	fs.DurationVar(&o.orphanGracePeriod, "orphan-grace-period", 90*time.Second,
		"Time after its last use at which a claim whose machine was never stored is deleted. It must be longer than any request that the API server allows.")
	fs.DurationVar(&o.reuseAfter, "reuse-after", 0,
		"Time for which an address is kept from being handed out again after its machine and its VM went, where its pool says nothing.")
	fs.StringVar(&o.metal3Allocation, "metal3-allocation", allocationByClaim,
		"How addresses of metal3 IPPools are allocated: with \"claim\" metal3 is asked by a claim before the machine is admitted; with \"address\" the address object is made at admission, and the claim when the machine is stored.")
	fs.DurationVar(&o.drainDelay, "drain-delay", 5*time.Second,
		"Time for which a terminated replica goes on serving, until the API server no longer sends it requests.")

	fs.BoolVar(&o.capacityWarnings, "capacity-warnings", true,
		"Warn whoever changes a MachineDeployment, a KubeadmControlPlane or a Cluster that its pools have too few addresses for it, and tell of that in metrics. Nothing of them is watched if false.")
	fs.BoolVar(&o.showVersion, "version", false, "Print the version and exit.")
	logsapi.AddFlags(o.logging, fs)
	o.addKubeconfigFlag(fs)
}

// addDiagnosticsFlags are those of CAPI's providers. Of one it does not say what
// it opens.
func (o *options) addDiagnosticsFlags(fs *pflag.FlagSet) {
	flags.AddManagerOptions(fs, &o.diagnostics)
	fs.Lookup("insecure-diagnostics").Usage += " The metrics are then open to everybody who reaches that address."
}

// addKubeconfigFlag takes over controller-runtime's own --kubeconfig.
func (o *options) addKubeconfigFlag(fs *pflag.FlagSet) {
	goFlags := flag.NewFlagSet("", flag.ContinueOnError)
	config.RegisterFlags(goFlags)
	fs.AddGoFlagSet(goFlags)
}

// Validate finds what cannot work before anything is started.
func (o *options) Validate() error {
	var errs []error
	if o.leaderElect && o.leaderElectNamespace == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		errs = append(errs, errors.New("--leader-elect-namespace is needed outside a cluster"))
	}
	if o.leaderElect && (o.renewDeadline >= o.leaseDuration || o.retryPeriod >= o.renewDeadline) {
		errs = append(errs, errors.New("--leader-elect-retry-period must be below --leader-elect-renew-deadline, and that below --leader-elect-lease-duration"))
	}
	if o.webhookClientCAFile == "" && len(o.webhookClientNames) > 0 {
		errs = append(errs, errors.New("--webhook-client-name means nothing without --webhook-client-ca-file"))
	}
	if o.webhookPort < 1 || o.webhookPort > 65535 {
		errs = append(errs, fmt.Errorf("--webhook-port %d is not a port", o.webhookPort))
	}
	if o.orphanGracePeriod <= 0 {
		errs = append(errs, fmt.Errorf("--orphan-grace-period %s must be positive", o.orphanGracePeriod))
	}
	if o.reuseAfter < 0 {
		errs = append(errs, fmt.Errorf("--reuse-after %s must not be negative", o.reuseAfter))
	}
	if o.metal3Allocation != allocationByClaim && o.metal3Allocation != allocationByAddress {
		errs = append(errs, fmt.Errorf("--metal3-allocation %q is neither %q nor %q", o.metal3Allocation, allocationByClaim, allocationByAddress))
	}
	if o.drainDelay < 0 {
		errs = append(errs, fmt.Errorf("--drain-delay %s must not be negative", o.drainDelay))
	}
	if o.kubeAPIQPS <= 0 || o.kubeAPIBurst <= 0 {
		errs = append(errs, errors.New("--kube-api-qps and --kube-api-burst must be positive"))
	}
	return errors.Join(errs...)
}

// warnings are what can work, and is dangerous.
func (o *options) warnings() []string {
	if o.orphanGracePeriod < safeGracePeriod {
		return []string{fmt.Sprintf("--orphan-grace-period %s is below %s: the claim of a machine that the API server is still storing may be deleted",
			o.orphanGracePeriod, safeGracePeriod)}
	}
	return nil
}

func (o *options) setUpLogging(ctx context.Context) error {
	if err := logsapi.ValidateAndApply(o.logging, nil); err != nil {
		return fmt.Errorf("setting up logging: %w", err)
	}
	ctrl.SetLogger(klog.FromContext(ctx))
	return nil
}
