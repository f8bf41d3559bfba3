package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/cluster-api/util/flags"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/aside"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/endpoint"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/allocator/late"
	"capv-static-ip.dev/allocator/ledger"
	"capv-static-ip.dev/allocator/lifecycle"
	"capv-static-ip.dev/allocator/mapper"
	"capv-static-ip.dev/allocator/nameless"
	"capv-static-ip.dev/allocator/recorder"
	"capv-static-ip.dev/allocator/retry"
	"capv-static-ip.dev/machine/demand"
	"capv-static-ip.dev/webhook"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// leaseName is the name of the leader election lease.
const leaseName = "capv-static-ip-leader-election"

// shutdownTimeout bounds the drain: the longest request, and time to take back.
const shutdownTimeout = 20 * time.Second

// newScheme knows the kinds of the program. The versions of the claim API, of
// Cluster API and of CAPV depend on what is served.
func newScheme(ctx context.Context, config *rest.Config) (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, ipamv1.AddToScheme} {
		utilruntime.Must(add(s))
	}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for discovery: %w", err)
	}
	discovered, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("discovering what is served: %w", err)
	}
	live, err := client.New(config, client.Options{HTTPClient: httpClient, Mapper: discovered})
	if err != nil {
		return nil, fmt.Errorf("making a client for CRDs: %w", err)
	}
	served := informers.NewDefined(ctx, discovered, live)
	if err := capi.AddToScheme(s, served); err != nil {
		return nil, err
	}
	return s, contract.AddToScheme(s, served)
}

// newMapper makes the mapper of all clients, which tenants cannot keep busy with
// kinds that do not exist.
func newMapper(config *rest.Config, httpClient *http.Client) (meta.RESTMapper, error) {
	dynamic, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making a mapper: %w", err)
	}
	return mapper.New(dynamic), nil
}

// newManager wires webhook, allocator and the controllers. The returned
// function ends the cache, which outlives the manager so that requests in
// flight see their claims bound while the manager drains.
func newManager(ctx context.Context, config *rest.Config, opts *options) (manager.Manager, context.CancelFunc, error) {
	tlsOptions, metricsOptions, err := flags.GetManagerOptions(opts.diagnostics)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the TLS options: %w", err)
	}
	config.QPS, config.Burst = opts.kubeAPIQPS, opts.kubeAPIBurst
	config.UserAgent = "capv-static-ip/" + version

	scheme, err := newScheme(ctx, config)
	if err != nil {
		return nil, nil, err
	}

	webhookServer, err := newWebhookServer(opts, tlsOptions)
	if err != nil {
		return nil, nil, err
	}
	cacheCtx, stopCache := context.WithCancel(context.WithoutCancel(ctx))
	server := newDrainingServer(webhookServer, opts.drainDelay)
	shutdown := shutdownTimeout + opts.drainDelay
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cacheOptions(opts),
		NewCache:                      lastingCache(cacheCtx),
		MapperProvider:                newMapper,
		WebhookServer:                 server,
		Metrics:                       *metricsOptions,
		HealthProbeBindAddress:        opts.healthAddr,
		PprofBindAddress:              opts.profilerAddr,
		LeaderElection:                opts.leaderElect,
		LeaderElectionID:              leaseName,
		LeaderElectionNamespace:       opts.leaderElectNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &opts.leaseDuration,
		RenewDeadline:                 &opts.renewDeadline,
		RetryPeriod:                   &opts.retryPeriod,
		GracefulShutdownTimeout:       &shutdown,
	})
	if err != nil {
		stopCache()
		return nil, nil, fmt.Errorf("making the manager: %w", err)
	}
	handler, err := setUp(ctx, mgr, opts)
	if err != nil {
		stopCache()
		return nil, nil, err
	}
	server.afterAnswers = handler.Wait
	return mgr, stopCache, nil
}

func cacheOptions(opts *options) cache.Options {
	options := cache.Options{
		SyncPeriod:       &opts.syncPeriod,
		DefaultTransform: slim,
	}
	if opts.namespace != "" {
		options.DefaultNamespaces = map[string]cache.Config{opts.namespace: {}}
		// There is no right to see others.
		options.ByObject = map[client.Object]cache.ByObject{
			allocator.Namespaces(): {Field: fields.OneTermEqualSelector(metav1.ObjectNameField, opts.namespace)},
		}
	}
	return options
}

// admissionClients makes clients with rate limits of their own: a controller
// that catches up on thousands of machines must not hold up a request.
func admissionClients(mgr manager.Manager) (cached, live client.Client, err error) {
	options := client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()}
	live, err = client.New(mgr.GetConfig(), options)
	if err != nil {
		return nil, nil, fmt.Errorf("making the client for live reads: %w", err)
	}
	options.Cache = &client.CacheOptions{Reader: mgr.GetCache(), Unstructured: true}
	cached, err = client.New(mgr.GetConfig(), options)
	if err != nil {
		return nil, nil, fmt.Errorf("making the client for admission: %w", err)
	}
	return cached, live, nil
}

// Limits of the requests that read owners and write refusals on them. A storm of
// refusals must not become one of writes; who is not written is refused again. It
// is enough for the owners that are made to try again, which are 20 a second at
// the most.
const (
	ownersQPS   = 40
	ownersBurst = 80
)

// limitedClient makes a client that reads and writes past the caches, with a
// rate limit of its own.
func limitedClient(mgr manager.Manager, qps float32, burst int) (client.Client, error) {
	config := rest.CopyConfig(mgr.GetConfig())
	config.QPS, config.Burst = qps, burst
	return client.New(config, client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
}

// Limits of the requests that store events.
const (
	eventsQPS   = 20
	eventsBurst = 100
)

// addRecorder adds to the manager what makes events.
func addRecorder(mgr manager.Manager) (*recorder.Recorder, error) {
	c, err := limitedClient(mgr, eventsQPS, eventsBurst)
	if err != nil {
		return nil, fmt.Errorf("making the client for events: %w", err)
	}
	events := recorder.New(c)
	if err := mgr.Add(events); err != nil {
		return nil, fmt.Errorf("adding the recorder of events: %w", err)
	}
	return events, nil
}

// addRefusals adds to the manager what writes refusals on owners.
func addRefusals(mgr manager.Manager, events *recorder.Recorder) (*retry.Recorder, error) {
	c, err := limitedClient(mgr, ownersQPS, ownersBurst)
	if err != nil {
		return nil, fmt.Errorf("making the client for owners: %w", err)
	}
	owners := retry.NewRecorder(c, mgr.GetClient(), events)
	if err := mgr.Add(owners); err != nil {
		return nil, fmt.Errorf("adding the writer of owners: %w", err)
	}
	return owners, nil
}

// newAllocator makes an Allocator that goes by what is counted of the cache.
func newAllocator(providers ipam.Providers, cached, live client.Client, opts *options) *allocator.Allocator {
	counts := ledger.New(providers)
	alloc := allocator.New(providers, counts.Client(cached), live)
	alloc.ReuseAfter, alloc.Counts, alloc.TakesAddresses = opts.reuseAfter, counts, opts.metal3Allocation == allocationByAddress
	alloc.Freezer = allocator.Freezer{Providers: providers, Cached: cached, Live: live, Flag: opts.freeze}
	return alloc
}

func setUp(ctx context.Context, mgr manager.Manager, opts *options) (*webhook.Handler, error) {
	cached, live, err := admissionClients(mgr)
	if err != nil {
		return nil, err
	}
	providers := ipam.NewProviders(contract.Provider{Mapper: mgr.GetRESTMapper(), Live: live}, metal3.Provider{})
	alloc := newAllocator(providers, cached, live, opts)
	events, err := addRecorder(mgr)
	if err != nil {
		return nil, err
	}
	refusals, err := addRefusals(mgr, events)
	if err != nil {
		return nil, err
	}
	lifecycleSources, err := lifecycle.Setup(mgr, providers, events, refusals, lifecycle.Periods{Freezer: alloc.Freezer, OrphanGrace: opts.orphanGracePeriod, ReuseAfter: opts.reuseAfter})
	if err != nil {
		return nil, err
	}
	poolSources, err := metal3.Setup(mgr)
	if err != nil {
		return nil, err
	}
	retrySources, err := retry.Setup(mgr, providers, alloc.Freezer)
	if err != nil {
		return nil, err
	}
	endpointSources, err := endpoint.Setup(mgr, providers, events, endpoint.Periods{Freezer: alloc.Freezer, OrphanGrace: opts.orphanGracePeriod, ReuseAfter: opts.reuseAfter})
	if err != nil {
		return nil, err
	}
	unusedSources, err := setUpUnused(mgr, alloc, providers, events)
	if err != nil {
		return nil, err
	}
	asked := &demand.Reader{Cache: cached, Live: live, Scheme: mgr.GetScheme()}
	lateSources, err := setUpLate(mgr, alloc, asked, providers, events)
	if err != nil {
		return nil, err
	}
	kinds, err := informers.NewStarter(mgr, live, func() (*runtime.Scheme, error) { return newScheme(ctx, mgr.GetConfig()) },
		slices.Concat(alloc.Counts.Sources(), alloc.Sources(), demand.Sources(mgr.GetScheme())),
		slices.Concat(lifecycleSources, poolSources, retrySources, unusedSources, endpointSources, lateSources))
	if err != nil {
		return nil, err
	}

	handler := &webhook.Handler{
		Allocator: alloc,
		Demand:    asked,
		Scheme:    mgr.GetScheme(),
		Namespace: opts.namespace,
		Events:    events,
		Refusals:  refusals,
	}
	registerWebhooks(mgr.GetWebhookServer(), handler, asked)

	return handler, errors.Join(addCounts(ctx, mgr, reads{providers, alloc.Counts, kinds, live}, opts), addChecks(mgr, kinds), watchNamespaces(ctx, mgr))
}

// setUpUnused adds the controllers of addresses that nobody has: those that no machine can be given,
// and those that do not say whose they were.
func setUpUnused(mgr manager.Manager, alloc *allocator.Allocator, providers ipam.Providers, events *recorder.Recorder) ([]informers.Source, error) {
	asideSources, err := aside.Setup(mgr, alloc, providers, events)
	if err != nil {
		return nil, err
	}
	namelessSources, err := nameless.Setup(mgr, providers, alloc.Freezer)
	return append(asideSources, namelessSources...), err
}

// watchNamespaces has every replica know which namespaces are frozen before it is ready. They
// have no CRD that would have to be waited for.
func watchNamespaces(ctx context.Context, mgr manager.Manager) error {
	informer, err := mgr.GetCache().GetInformer(ctx, allocator.Namespaces(), cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watching namespaces: %w", err)
	}
	return mgr.AddReadyzCheck("namespaces", func(*http.Request) error {
		if !informer.HasSynced() {
			return errors.New("the cache has not all namespaces yet")
		}
		return nil
	})
}

// registerWebhooks has the webhook server answer for machines and for VSphereClusters.
func registerWebhooks(server ctrlwebhook.Server, handler *webhook.Handler, asked *demand.Reader) {
	server.Register(webhook.Path, webhook.New(handler))
	server.Register(webhook.ClusterPath, webhook.NewForClusters(&webhook.ClusterHandler{Handler: handler, Endpoints: asked}))
}

// setUpLate adds the controllers for what is stored without addresses.
func setUpLate(mgr manager.Manager, alloc *allocator.Allocator, asked *demand.Reader, providers ipam.Providers, events *recorder.Recorder) ([]informers.Source, error) {
	machines, err := late.Setup(mgr, alloc, asked, providers, events)
	if err != nil {
		return nil, err
	}
	endpoints, err := late.SetupEndpoints(mgr, alloc, asked, providers, events)
	return slices.Concat(machines, endpoints), err
}

// addChecks adds what the kubelet asks. Ready is who can admit machines: whoever
// serves, has what is read there in its caches, and reaches the API server.
func addChecks(mgr manager.Manager, kinds *informers.Starter) error {
	reach, err := newReach(mgr)
	if err != nil {
		return err
	}
	if err := mgr.Add(reach); err != nil {
		return fmt.Errorf("adding what asks if the API server answers: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("adding the health check: %w", err)
	}
	for name, check := range map[string]healthz.Checker{
		"webhook": mgr.GetWebhookServer().StartedChecker(),
		"caches":  func(*http.Request) error { return kinds.Synced() },
		"reach":   func(*http.Request) error { return reach.check() },
	} {
		if err := mgr.AddReadyzCheck(name, check); err != nil {
			return fmt.Errorf("adding the readiness check %q: %w", name, err)
		}
	}
	return nil
}
