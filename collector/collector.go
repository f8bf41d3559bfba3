package collector

import (
	"context"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ledger"
	"capv-static-ip.dev/inventory"
)

// readTimeout bounds what a scrape waits for the caches.
const readTimeout = 5 * time.Second

var (
	poolLabels = []string{"kind", "pool_namespace", "pool"}

	poolAddresses = prometheus.NewDesc("capv_static_ip_pool_addresses",
		"Addresses of a pool by state: used, cooling, reserved (for others, or for nobody) and free add up to the pool.",
		append(poolLabels, "state"), nil)

	poolSurge = prometheus.NewDesc("capv_static_ip_pool_surge",
		"Most addresses that one roll-out needs of a pool beyond those that its machines hold, as far as other pools do not serve as well.",
		poolLabels, nil)

	waitingOwners = prometheus.NewDesc("capv_static_ip_pool_waiting_owners",
		"Owners of machines (MachineSets, control planes) that were refused, and wait for a pool.", poolLabels, nil)

	bindings = prometheus.NewDesc("capv_static_ip_bindings",
		"Addresses of machines by state: held, unadopted (not tied to the machine yet), releasing (the machine waits only for this), lost (used, and not bound to the machine).",
		[]string{"state"}, nil)

	certificateEnd = prometheus.NewDesc("capv_static_ip_webhook_certificate_not_after_timestamp_seconds",
		"When the certificate ends that this replica serves the webhook with.", nil, nil)

	buildInfo = prometheus.NewDesc("capv_static_ip_build_info",
		"The version of capv-static-ip that runs, and that of Go which it was built with.", []string{"version", "go_version"}, nil)
)

// Options are what a Collector asks.
type Options struct {
	Client    client.Client
	Cache     client.Reader
	Providers ipam.Providers
	// Counts has the addresses of pools counted, where it knows. It may be nil.
	Counts *ledger.Ledger
	// Watches tells whether the cache has what there is of a kind.
	Watches func(schema.GroupKind) bool
	// WatchesWhole tells whether the cache has all there is of an object of a kind that makes
	// machines, or of a template. It is nil where nothing is to be forecast.
	WatchesWhole func(schema.GroupKind) bool
	// ReuseAfter is for how long addresses cool down of pools that say nothing.
	ReuseAfter time.Duration
	// CertificateEnd is when the certificate ends that is served.
	CertificateEnd func(context.Context) (time.Time, error)
	Version        string
}

// Collector implements prometheus.Collector.
type Collector struct {
	Options
	// ctx is that of the program: a scrape brings none.
	ctx context.Context

	// mu lets one scrape count at a time.
	mu sync.Mutex
	// parsed are the bindings that the last scrape has read, by their texts: to read those
	// of thousands of machines takes longer than all the rest.
	parsed map[string]ipam.Bindings
}

// New makes a Collector, to be registered.
func New(ctx context.Context, options Options) *Collector {
	return &Collector{Options: options, ctx: ctx}
}

// Describe implements prometheus.Collector.
func (*Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{poolAddresses, poolSurge, waitingOwners, bindings, certificateEnd, buildInfo} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out: a scrape that
// fails would hide all other metrics, too.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, readTimeout)
	defer cancel()
	metrics <- gauge(buildInfo, 1, c.Version, runtime.Version())
	if end, err := c.CertificateEnd(ctx); err == nil {
		metrics <- gauge(certificateEnd, float64(end.Unix()))
	} else {
		klog.FromContext(ctx).V(1).Info("Cannot tell when the webhook's certificate ends", "cause", err.Error())
	}
	graph, err := c.Read(ctx)
	if err != nil {
		klog.FromContext(ctx).V(1).Info("Cannot count pools and bindings", "cause", err.Error())
		return
	}
	c.collectPools(graph, metrics)
	if c.forecasts() {
		collectSurge(graph, metrics)
	}
	for state, count := range countBindings(graph, c.seen()) {
		metrics <- gauge(bindings, float64(count), string(state))
	}
}

// Read reads what is in the cache.
func (c *Collector) Read(ctx context.Context) (*inventory.Graph, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parsed := make(map[string]ipam.Bindings, len(c.parsed))
	parse := func(text string) (ipam.Bindings, error) {
		bindings, known := c.parsed[text]
		if !known {
			var err error
			if bindings, err = ipam.ParseBindings(text); err != nil {
				return bindings, err
			}
		}
		parsed[text] = bindings
		return bindings, nil
	}
	source := inventory.Source{Client: c.Client, Reader: watchedOnly{c}, Providers: c.Providers, Now: time.Now, ParseBindings: parse,
		WithWorkloads: c.WatchesWhole != nil, ReuseAfter: c.ReuseAfter}
	graph, err := source.Read(ctx)
	c.parsed = parsed
	return graph, err
}

// forecasts tells whether the cache has what is needed to say what roll-outs need. Control
// planes may be of another kind.
func (c *Collector) forecasts() bool {
	return c.WatchesWhole != nil && c.WatchesWhole(capi.MachineDeploymentKind) && c.WatchesWhole(capi.VSphereMachineTemplateKind)
}

// seen tells of each provider whether its claims and addresses are in the cache.
func (c *Collector) seen() func(ipam.PoolReference) bool {
	known := map[string]bool{}
	for _, provider := range c.Providers {
		known[provider.Name()] = c.watchesAll(provider)
	}
	return func(pool ipam.PoolReference) bool { return known[c.Providers.For(pool).Name()] }
}

func (c *Collector) watchesAll(provider ipam.Provider) bool {
	claim, address := provider.Kinds()
	for _, kind := range []client.Object{claim, address} {
		gvk, err := c.Client.GroupVersionKindFor(kind)
		if err != nil || !c.Watches(gvk.GroupKind()) {
			return false
		}
	}
	return true
}

// watchedOnly reads the cache for those kinds only that are watched. Asked for another, it
// would begin to watch that, for a scrape alone.
type watchedOnly struct{ *Collector }

// Get implements client.Reader. Nothing is read by its name here.
func (w watchedOnly) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errNotWatched
}

// List implements client.Reader.
func (w watchedOnly) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	gvk, err := apiutil.GVKForObject(list, w.Client.Scheme())
	if err != nil {
		return err
	}
	kind := schema.GroupKind{Group: gvk.Group, Kind: strings.TrimSuffix(gvk.Kind, "List")}
	watches := w.Watches
	if _, whole := list.(*unstructured.UnstructuredList); whole && slices.Contains(inventory.WorkloadKinds(), kind) {
		watches = w.WatchesWhole
	}
	// Namespaces have no CRD, and are always watched.
	if !watches(kind) && kind != (schema.GroupKind{Kind: "Namespace"}) {
		return errNotWatched
	}
	return w.Cache.List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...)
}

func (c *Collector) collectPools(graph *inventory.Graph, metrics chan<- prometheus.Metric) {
	waiting := countWaiting(graph)
	for _, pool := range graph.Pools {
		if pool.Object == nil {
			// It is gone, or of a kind that is not watched.
			continue
		}
		if _, waitedFor := waiting[pool.PoolKey]; !waitedFor {
			waiting[pool.PoolKey] = 0
		}
		usage := c.usageOf(pool)
		if !usage.Known {
			continue
		}
		for state, count := range map[string]float64{
			"used": float64(usage.Used), "cooling": float64(usage.Cooling), "reserved": float(usage.Reserved), "free": float(usage.Free),
		} {
			metrics <- gauge(poolAddresses, count, pool.KindName(), pool.Namespace, pool.Name, state)
		}
	}
	for key, count := range waiting {
		metrics <- gauge(waitingOwners, float64(count), key.KindName(), key.Namespace, key.Name)
	}
}

// usageOf is the usage of a pool by what is counted, which is what denials go by. Where that
// has more than the objects that name the pool, these are counted one by one.
func (c *Collector) usageOf(pool *inventory.Pool) inventory.Usage {
	counts, known := c.Counts.Used(pool.Namespace, pool.PoolReference)
	if !known || counts.Odd() > 0 {
		return pool.Usage()
	}
	return pool.UsageOf(counts)
}

// collectSurge tells of the pools that somebody's roll-out can ask.
func collectSurge(graph *inventory.Graph, metrics chan<- prometheus.Metric) {
	demands := graph.Demands()
	for _, pool := range graph.Pools {
		if pool.Object != nil {
			metrics <- gauge(poolSurge, float64(inventory.SurgeOf(pool, demands)), pool.KindName(), pool.Namespace, pool.Name)
		}
	}
}

// float is a number of addresses. Of more than 2^53 it is near enough.
func float(n *big.Int) float64 {
	value, _ := new(big.Float).SetInt(n).Float64()
	return value
}

// maxAbsent bounds the pools that are told of only because an owner waits for them: their
// names are the text of whoever may write owners.
const maxAbsent = 1000

// countWaiting counts the owners that wait for each pool, be it there or not.
func countWaiting(graph *inventory.Graph) map[inventory.PoolKey]int {
	counts, absent := map[inventory.PoolKey]int{}, 0
	for _, owner := range graph.Owners {
		if !owner.DeletionTimestamp.IsZero() {
			continue
		}
		for obstacle := range owner.Shortages {
			if obstacle.Reason != "" {
				continue
			}
			key := inventory.PoolKey{PoolReference: obstacle.Pool}
			if graph.Pool(key) == nil {
				key.Namespace = owner.Namespace
			}
			if _, known := counts[key]; !known && graph.Pool(key) == nil {
				if absent++; absent > maxAbsent {
					continue
				}
			}
			counts[key]++
		}
	}
	return counts
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}
