package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/collector"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

const (
	// scrapedAddresses are held by as many machines, of scrapedPools pools.
	scrapedAddresses, scrapedPools = 10000, 100
	// scrapeGoal is how long a scrape of that may take.
	scrapeGoal = 50 * time.Millisecond
)

// held is a cache: lists of what it has of each kind, as the manager's gives them out.
type held struct {
	client.Reader
	scheme  *runtime.Scheme
	objects map[string][]runtime.Object
}

// List implements client.Reader.
func (h held) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	gvk, err := apiutil.GVKForObject(list, h.scheme)
	if err != nil {
		return err
	}
	return meta.SetList(list, h.objects[gvk.Kind])
}

// scrapes measures how long it takes to tell of that many addresses, in this process: the
// metrics that are counted when they are asked for, and their text.
func scrapes(ctx context.Context, count int) (measure.Durations, error) {
	cache, err := fullCache()
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	err = registry.Register(collector.New(ctx, collector.Options{
		Client: fake.NewClientBuilder().WithScheme(cache.scheme).Build(), Cache: cache, Providers: harness.Providers,
		Watches:        func(kind schema.GroupKind) bool { return len(cache.objects[kind.Kind+"List"]) > 0 },
		CertificateEnd: func(context.Context) (time.Time, error) { return time.Now(), nil },
	}))
	if err != nil {
		return nil, fmt.Errorf("registering the metrics: %w", err)
	}
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	var took measure.Durations
	for range count {
		answer := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
		start := time.Now()
		handler.ServeHTTP(answer, request)
		took = append(took, time.Since(start))
		if want := fmt.Sprintf("capv_static_ip_bindings{state=%q} %d\n", "held", scrapedAddresses); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), want) {
			return nil, fmt.Errorf("scraping: got no %q in\n%s", want, answer.Body)
		}
	}
	return took, nil
}

// fullCache has machines, each with its claim and its address, and their pools.
func fullCache() (held, error) {
	cache := held{scheme: runtime.NewScheme(), objects: map[string][]runtime.Object{}}
	if err := errors.Join(ipamv1.AddToScheme(cache.scheme), capi.AddToScheme(cache.scheme, nil)); err != nil {
		return held{}, fmt.Errorf("making a scheme: %w", err)
	}
	for n := range scrapedPools {
		start, end := ipamv1.IPAddressStr(fmt.Sprintf("10.%d.0.1", n)), ipamv1.IPAddressStr(fmt.Sprintf("10.%d.0.200", n))
		pool := harness.Pool("scraped", harness.PoolNamed(poolName(n)), harness.PoolRange(string(start), string(end)))
		cache.objects["IPPoolList"] = append(cache.objects["IPPoolList"], pool)
	}
	for n := range scrapedAddresses {
		if err := cache.hold(n); err != nil {
			return held{}, err
		}
	}
	return cache, nil
}

func poolName(n int) string { return fmt.Sprintf("pool-%d", n) }

// hold adds a machine with an address.
func (h held) hold(n int) error {
	pool, ip := poolName(n%scrapedPools), fmt.Sprintf("10.%d.0.%d", n%scrapedPools, 1+n/scrapedPools)
	name := fmt.Sprintf("machine-%d", n)
	claimName := ipam.ClaimName(name, ipam.Slot{})
	binding := ipam.Binding{
		Pool: metal3.PoolNamed(pool), Claim: claimName, Address: netip.MustParsePrefix(ip + "/24"), Gateway: netip.MustParseAddr("10.0.0.1"),
	}
	text, err := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{binding}}.Encode()
	if err != nil {
		return fmt.Errorf("making a machine: %w", err)
	}
	machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "scraped", Name: name, UID: types.UID(name), Annotations: map[string]string{ipam.BindingsAnnotation: text},
	}}
	machine.Spec.Network.Devices = []capi.Device{{NetworkName: "net", IPAddrs: []string{ip + "/24"}}}
	claim := harness.Claim("scraped", claimName, pool)
	claim.OwnerReferences = []metav1.OwnerReference{{Kind: capi.VSphereMachineKind.Kind, Name: name, UID: machine.UID}}
	claim.Status.Address = &corev1.ObjectReference{Namespace: "scraped", Name: claimName}
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "scraped", Name: claimName, Finalizers: []string{ipam.InUseFinalizer}}}
	address.Spec.Pool.Name, address.Spec.Claim.Name, address.Spec.Address = pool, claimName, ipamv1.IPAddressStr(ip)
	h.objects["VSphereMachineList"] = append(h.objects["VSphereMachineList"], machine)
	h.objects["IPClaimList"] = append(h.objects["IPClaimList"], claim)
	h.objects["IPAddressList"] = append(h.objects["IPAddressList"], address)
	return nil
}
