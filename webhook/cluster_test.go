package webhook

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// endpointsOf is what a VSphereCluster asks for, and its Cluster.
type endpointsOf struct {
	cluster *capi.Cluster
}

func (e endpointsOf) Endpoint(_ context.Context, c *machine.VSphereCluster) (*ipam.Ask, *capi.Cluster, error) {
	ask, err := c.EndpointAsk(e.cluster)
	if ask == nil {
		return nil, e.cluster, err
	}
	return &ask.Ask, e.cluster, err
}

// holding is an allocator by which these addresses are held.
type holding struct {
	brokenAllocator
	addresses []string
}

func (h *holding) Held(_ context.Context, m ipam.Machine, _ types.UID) ([]ipam.Binding, error) {
	var held []ipam.Binding
	for _, text := range h.addresses {
		if m.Kind == ipam.OfCluster {
			ip := netip.MustParseAddr(text)
			held = append(held, ipam.Binding{Address: netip.PrefixFrom(ip, ip.BitLen())})
		}
	}
	return held, h.err
}

func clusterHandler(a Allocator, cluster *capi.Cluster) *ClusterHandler {
	return &ClusterHandler{Handler: handler(a), Endpoints: endpointsOf{cluster}}
}

// asking is a VSphereCluster that names a pool for its endpoint.
const asking = `{"metadata":{"name":"prod","labels":{"cluster.x-k8s.io/ip-pool-name":"vips"}},"spec":{"server":"a"}}`

func clusterWith(host string, paused bool) *capi.Cluster {
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
	cluster.Spec.ControlPlaneEndpoint.Host, cluster.Spec.Paused = host, &paused
	return cluster
}

func TestVSphereClusterIsGivenAnEndpoint(t *testing.T) {
	dry := createOf(asking)
	yes := true
	dry.DryRun = &yes
	for name, test := range map[string]struct {
		req     admission.Request
		cluster *capi.Cluster
		held    []string
		patched bool
		warning string
	}{
		"without a Cluster":         {req: createOf(asking), patched: true},
		"with one":                  {req: createOf(asking), cluster: clusterWith("", false), patched: true},
		"of one that is paused":     {req: createOf(asking), cluster: clusterWith("", true), warning: `Cluster "prod" is paused: the endpoint follows when it is resumed`},
		"of one with an endpoint":   {req: createOf(asking), cluster: clusterWith("10.0.0.9", false), held: []string{"10.0.0.1"}, warning: `Cluster "prod" has the endpoint 10.0.0.9 already: no address is claimed`},
		"of one with a name for it": {req: createOf(asking), cluster: clusterWith("vip.example.com", false), warning: `Cluster "prod" has the endpoint vip.example.com already: no address is claimed`},
		"that is held for it still": {req: createOf(asking), cluster: clusterWith("10.0.0.1", false), held: []string{"10.0.0.1"}, patched: true},
		"in a dry run":              {req: dry},
		"that asks for nothing":     {req: createOf(strings.ReplaceAll(asking, "labels", "other"))},
		"that has one":              {req: createOf(strings.ReplaceAll(asking, `"server":"a"`, `"controlPlaneEndpoint":{"host":"a"}`))},
		"without a name":            {req: createOf(strings.ReplaceAll(asking, `"name":"prod",`, "")), warning: "metadata.generateName gives the VSphereCluster no name yet: its endpoint follows when its Cluster exists; set metadata.name to have it at once"},
	} {
		t.Run(name, func(t *testing.T) {
			h := clusterHandler(&holding{addresses: test.held}, test.cluster)

			v := h.decide(t.Context(), test.req)

			if v.err != nil || len(v.patch) > 0 != test.patched || strings.Join(v.warnings, ";") != test.warning {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestOtherAddressThanTheClustersIsTakenBack(t *testing.T) {
	engine := &holding{addresses: []string{"10.0.0.2"}}

	v := clusterHandler(engine, clusterWith("10.0.0.2", false)).decide(t.Context(), createOf(asking))

	wantRefusal(t, v.err, ipam.EndpointPinned, `Cluster "prod" has the endpoint 10.0.0.2, and IPPool "vips" has given the VSphereCluster another address`)
	if engine.takenBack != 1 {
		t.Errorf("it was taken back %d times", engine.takenBack)
	}
}

func TestOnlyAnEndpointThatIsHeldIsPinned(t *testing.T) {
	with := func(host string) string {
		return strings.ReplaceAll(asking, `"server":"a"`, `"controlPlaneEndpoint":{"host":"`+host+`","port":6443}`)
	}
	deleting := strings.ReplaceAll(with("10.0.0.2"), `"name"`, `"deletionTimestamp":"2026-01-01T00:00:00Z","name"`)
	for name, test := range map[string]struct {
		held   []string
		after  string
		denied bool
	}{
		"held, and changed":            {[]string{"10.0.0.1"}, with("10.0.0.2"), true},
		"held, and written otherwise":  {[]string{"10.0.0.1"}, with("::ffff:10.0.0.1"), false},
		"another one is held":          {[]string{"10.0.0.3"}, with("10.0.0.2"), false},
		"none is held":                 {nil, with("10.0.0.2"), false},
		"held by one that is going":    {[]string{"10.0.0.1"}, deleting, false},
		"held, and the host is a name": {[]string{"10.0.0.1"}, with("vip.example.com"), true},
	} {
		t.Run(name, func(t *testing.T) {
			h := clusterHandler(&holding{addresses: test.held}, nil)

			v := h.decide(t.Context(), updateOf(with("10.0.0.1"), test.after))

			if test.denied {
				wantRefusal(t, v.err, ipam.EndpointPinned, "keep it")
			} else if v.err != nil {
				t.Error(v.err)
			}
		})
	}
}

func TestEventsTellOfARefusedVSphereCluster(t *testing.T) {
	refusal := ipam.Refuse(ipam.PoolExhausted, "full")
	response := clusterHandler(&holding{brokenAllocator: brokenAllocator{err: refusal}}, nil).Handle(t.Context(), createOf(asking))
	if response.Allowed || response.Result.Message != "full" {
		t.Errorf("got %+v", response)
	}
}
