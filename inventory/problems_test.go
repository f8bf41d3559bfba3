package inventory

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// problems are what is wrong with the scene's pool: at addresses, and elsewhere.
func (s *scene) problems(t *testing.T) []string {
	t.Helper()
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph.Workloads[0].askFor(metal3.PoolNamed("pool"))
	findings, _ := graph.Findings(limits)
	problems := ProblemsOf(findings)
	key := PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("pool")}
	got := problems.Elsewhere(key)
	for ip, note := range problems.At(key) {
		got = append(got, ip.String()+" "+note)
	}
	slices.Sort(got)
	if summary := graph.Summary(graph.Pool(key), problems); (summary.Problems == 0) != (len(got) == 0) {
		t.Errorf("the pool has %d problems, and they are %q", summary.Problems, got)
	}
	return got
}

func TestProblemsStandBesideTheAddressesOfTheirPool(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*scene)
		want   string
	}{
		"nothing": {func(*scene) {}, ""},
		"an address also by hand on another machine": {
			func(s *scene) { s.more = []client.Object{unbound("lb-old", "10.0.0.2")} },
			"10.0.0.2 SIP-001: also on VSphereMachine/lb-old (static)",
		},
		"the same in another namespace": {func(s *scene) {
			other := unbound("lb-old", "10.0.0.2")
			other.Namespace = "other"
			s.more = []client.Object{other}
		}, "10.0.0.2 SIP-001: also on VSphereMachine/other/lb-old (static)"},
		"an address that another guest reports": {func(s *scene) {
			s.more = []client.Object{s.vmOf(unbound("lb", "10.9.0.9"), "10.9.0.9", "10.0.0.2"), unbound("lb", "10.9.0.9")}
		}, "10.0.0.2 SIP-001: also on VSphereVM/lb (its guest says so)"},
		"an address that a pool has given twice": {func(s *scene) {
			m, claim, address := s.bound("n", "10.0.0.2")
			address.Name = "twice"
			s.more = []client.Object{m, claim, address, s.vmOf(m, "10.0.0.2")}
		}, `10.0.0.2 SIP-001: used by VSphereMachine ns/m and VSphereMachine ns/n; ` +
			`SIP-006: VSphereMachine ns/m uses 10.0.0.2 of IPPool pool, which is that of machine "n", by claim n-0`},
		"an address written by hand": {
			func(s *scene) { s.more = []client.Object{unbound("jump", "10.0.0.6")} },
			"10.0.0.6 SIP-017: VSphereMachine ns/jump has 10.0.0.6, written by hand, which ns/IPPool/pool may hand out",
		},
		"addresses outside of the pool": {
			func(s *scene) { *s.pool.Spec.Pools[0].Start = "10.0.0.3" },
			"10.0.0.2 SIP-003: the pool has given 10.0.0.2, outside of its ranges",
		},
		"its gateway": {
			func(s *scene) { *s.pool.Spec.Gateway = "10.0.0.7" },
			"10.0.0.7 SIP-008: the pool has in its ranges: its gateway 10.0.0.7",
		},
		"an address of nobody": {
			func(s *scene) { s.gone = []client.Object{s.machine, s.vm, s.claim} },
			`10.0.0.2 SIP-005: 10.0.0.2 is protected for machine "m", which does not use it, and no VM has it`,
		},
		"a claim of nobody": {
			func(s *scene) { s.gone = []client.Object{s.machine, s.vm} },
			`10.0.0.2 SIP-004: claim ns/m-0 is of machine "m", which does not exist, and was last used 6h0m0s ago`,
		},
		"a machine that nothing protects": {
			func(s *scene) { s.gone = []client.Object{s.claim}; s.address.Finalizers = nil },
			"10.0.0.2 SIP-006: VSphereMachine ns/m uses 10.0.0.2 of IPPool pool, which has neither its claim nor our protection",
		},
		"a VM without its machine": {
			func(s *scene) { s.gone = []client.Object{s.machine, s.claim, s.address} },
			"10.0.0.2 SIP-006: VSphereVM ns/m has no VSphereMachine, and uses 10.0.0.2 of ns/IPPool/pool, which the pool knows nothing of",
		},
		"a guest with another address": {
			func(s *scene) { s.vm.Status.Addresses = []string{"10.9.9.9"} },
			"10.0.0.2 SIP-012: VSphereMachine ns/m has 10.0.0.2, and the guest of its VM reports 10.9.9.9",
		},
		"a deletion that hangs": {func(s *scene) {
			at := metav1.NewTime(noon.Add(-time.Hour))
			s.machine.DeletionTimestamp, s.machine.Finalizers = &at, []string{ipam.ReleaseFinalizer}
		}, "10.0.0.2 SIP-018: VSphereMachine ns/m is being deleted since 1h0m0s, and only finalizer " + ipam.ReleaseFinalizer + " is left"},
		"a pool that stays behind": {
			func(s *scene) { s.pool.Spec.ClusterName = nil },
			"SIP-015: the pool stays behind in clusterctl move",
		},
		"pools that overlap": {
			func(s *scene) { s.more = []client.Object{s.anotherPool("10.0.0.7", "10.0.0.9")} },
			"SIP-002: the pool has addresses that are also of ns/IPPool/another",
		},
		"a pool that has enough by now": {
			func(s *scene) { s.more = []client.Object{refused(time.Hour)} },
			"SIP-013: MachineSet ns/set was refused 1h0m0s ago for want of addresses of ns/IPPool/pool, which has enough by now",
		},
		// The numbers of the pool say that.
		"too few for a roll-out": {func(s *scene) { *s.pool.Spec.Pools[0].End = "10.0.0.2" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			if got := strings.Join(s.problems(t), "\n"); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// Of two pools of one place and name in different namespaces only that has the problem which
// has given the address.
func TestProblemIsInThePoolThatHasGivenTheAddress(t *testing.T) {
	s := newScene()
	other := s.pool.DeepCopy()
	other.Namespace = "other"
	s.pool.Annotations[ipam.NetworksAnnotation], other.Annotations = "n", map[string]string{ipam.NetworksAnnotation: "elsewhere"}
	s.more = []client.Object{other, unbound("lb-old", "10.0.0.2")}
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, _ := graph.Findings(limits, ChecksOfPools()...)
	for key := range ProblemsOf(findings) {
		if key.Namespace != "ns" {
			t.Errorf("%s has a problem, too: %+v", key, findings)
		}
	}
}

func TestProblemIsNotInThePoolsThatItNames(t *testing.T) {
	s := newScene()
	s.more = []client.Object{s.anotherPool("10.0.0.7", "10.0.0.9")}
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, _ := graph.Findings(limits, PoolsOverlap)
	if problems := ProblemsOf(findings); len(findings) != 1 || len(problems) != 1 || len(findings[0].Pools) != 2 {
		t.Errorf("got %v of %+v, want one problem of one of the two pools", problems, findings)
	}
}

// summaryOf is a pool of so many addresses, with so many of them in use.
func summaryOf(t *testing.T, total, used int, change func(*Graph, *Pool), findings ...Finding) Summary {
	t.Helper()
	last := netip.MustParseAddr("10.0.0.2").As4()
	last[3] += byte(total - 1)
	pool := &Pool{
		PoolKey: PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed("pool")}, Provider: metal3.Provider{},
		Object: metal3Pool("10.0.0.2", netip.AddrFrom4(last).String(), nil),
	}
	for i := range used {
		pool.Addresses = append(pool.Addresses, holding(fmt.Sprintf("10.0.0.%d", 2+i))...)
	}
	g := &Graph{Pools: []*Pool{pool}}
	if change != nil {
		change(g, pool)
	}
	for i := range findings {
		findings[i].Pools = []PoolKey{pool.PoolKey}
	}
	return g.Summaries(ProblemsOf(findings))[0]
}

func TestStatusOfAPoolAndItsPlaceInTheList(t *testing.T) {
	waits := func(g *Graph, _ *Pool) {
		shortages := refusedOwner(t)
		g.Owners = append(g.Owners, shortages)
	}
	failing, risky := Finding{Check: NotBound, Severity: Failing}, Finding{Check: StaysBehind, Severity: Risky}
	last := rank(-1)
	for _, test := range []struct {
		summary Summary
		want    string
	}{
		{summaryOf(t, 20, 1, nil, failing, risky), "2 problems, see audit"},
		{summaryOf(t, 20, 20, waits, risky), "Exhausted: 1 owner waits; 1 problem, see audit"},
		{summaryOf(t, 20, 20, nil), "Exhausted"},
		{summaryOf(t, 20, 19, nil), "Nearly full"},
		{summaryOf(t, 20, 1, nil, risky), "1 problem, see audit"},
		{summaryOf(t, 20, 18, nil), "OK"},
	} {
		if got := test.summary.InAll(", see audit"); got != test.want {
			t.Errorf("the status is %q, want %q", got, test.want)
		}
		if test.summary.rank <= last {
			t.Errorf("%q comes before what is worse", test.want)
		}
		last = test.summary.rank
	}
}

func TestPoolsThatNeedAttentionComeFirst(t *testing.T) {
	g := &Graph{}
	for _, name := range []string{"a-fine", "b-full", "c-broken", "d-fine"} {
		pool := &Pool{
			PoolKey: PoolKey{Namespace: "ns", PoolReference: metal3.PoolNamed(name)}, Provider: metal3.Provider{},
			Object: metal3Pool("10.0.0.2", "10.0.0.2", nil),
		}
		if name == "b-full" {
			pool.Addresses = holding("10.0.0.2")
		}
		g.Pools = append(g.Pools, pool)
	}
	problems := ProblemsOf([]Finding{{Check: NotBound, Severity: Failing, Pools: []PoolKey{g.Pools[2].PoolKey}}})
	var got []string
	for _, s := range g.Summaries(problems) {
		got = append(got, s.Name)
	}
	if want := []string{"c-broken", "b-full", "a-fine", "d-fine"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// refusedOwner waits for an address of the pool.
func refusedOwner(t *testing.T) *Owner {
	t.Helper()
	s := newScene()
	s.more = []client.Object{refused(time.Hour)}
	graph, err := s.source(t).Read(t.Context())
	if err != nil || len(graph.Owners) != 1 {
		t.Fatalf("got the owners %v, error %v", graph.Owners, err)
	}
	return graph.Owners[0]
}

func TestOwnerSaysHowManyItNeedsAndSinceWhen(t *testing.T) {
	owner := refusedOwner(t)
	since, known := owner.Since()
	if needs := owner.Needs(metal3.PoolNamed("pool")); needs != 1 || !known || !since.Equal(noon.Add(-time.Hour)) {
		t.Errorf("it needs %d since %s (%t), want 1 since an hour", needs, since, known)
	}
}

func TestAddressOfAProblemHasARowOfItsOwn(t *testing.T) {
	pool := &Pool{Provider: contract.Provider{}, Object: inClusterPool(map[string]any{
		"addresses": []any{"10.0.0.2-10.0.0.9"}, "prefix": int64(24),
	}), Addresses: holding("10.0.0.4")}
	alone := map[netip.Addr]string{parse("10.0.0.4"): "", parse("10.0.0.7"): "", parse("10.0.0.8"): "", parse("10.0.1.1"): ""}
	want := []string{
		"10.0.0.2-10.0.0.3: 2 free", "10.0.0.4-10.0.0.4: 1 used", "10.0.0.5-10.0.0.6: 2 free", "10.0.0.7-10.0.0.7: 1 free",
		"10.0.0.8-10.0.0.8: 1 free", "10.0.0.9-10.0.0.9: 1 free", "10.0.1.1-10.0.1.1: 1 outside",
	}
	if got := inWords((&Graph{}).RunsWith(pool, alone)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNetworkOfAPool(t *testing.T) {
	inCluster := inClusterPool(map[string]any{
		"addresses": []any{"10.0.0.2-10.0.0.9", "10.0.0.12", "10.0.0.14", "10.0.0.20-10.0.0.30"}, "prefix": int64(24), "gateway": "10.0.0.1",
	})
	inCluster.SetAnnotations(map[string]string{ipam.NameserversAnnotation: "10.0.0.53, 10.0.1.53"})
	closed := inCluster.DeepCopyObject().(client.Object)
	closed.SetAnnotations(map[string]string{ipam.GatewayAnnotation: ipam.NoGateway})
	mixed := metal3Pool("10.0.0.2", "10.0.0.5", func(pool *ipamv1.IPPool) {
		first, gateway := ipamv1.IPAddressStr("10.0.1.2"), ipamv1.IPAddressStr("10.0.1.1")
		pool.Spec.DNSServers = []ipamv1.IPAddressStr{"10.0.0.53"}
		pool.Spec.Pools = append(pool.Spec.Pools, ipamv1.Pool{Start: &first, End: &first, Prefix: 25, Gateway: &gateway})
	})
	for name, test := range map[string]struct {
		pool *Pool
		want string
	}{
		"in-cluster":          {&Pool{Provider: contract.Provider{}, Object: inCluster}, "10.0.0.2-10.0.0.9/24, 10.0.0.12/24, 10.0.0.14/24 and 1 more; [10.0.0.1]; [10.0.0.53 10.0.1.53]"},
		"without gateway":     {&Pool{Provider: contract.Provider{}, Object: closed}, "10.0.0.2-10.0.0.9/24, 10.0.0.12/24, 10.0.0.14/24 and 1 more; []; []"},
		"of different ranges": {&Pool{Provider: metal3.Provider{}, Object: mixed}, "10.0.0.2-10.0.0.5, 10.0.1.2; [10.0.0.1 10.0.1.1]; [10.0.0.53]"},
		"that is not there":   {&Pool{Provider: metal3.Provider{}}, "; []; []"},
	} {
		n := test.pool.Network(3)
		if got := fmt.Sprintf("%s; %s; %s", n.RangesInWords(), n.Gateways, n.Nameservers); got != test.want {
			t.Errorf("a pool %s is %q, want %q", name, got, test.want)
		}
	}
}

func TestRefusalLeadsToItsPage(t *testing.T) {
	var s, other Story
	other.see(ipam.PoolExhausted)
	s.see(ipam.PoolExhausted)
	s.see(ipam.PoolExhausted)
	s.add(other)
	if want := []string{"https://capv-static-ip.dev/docs/denials/#poolexhausted"}; !slices.Equal(s.See, want) {
		t.Errorf("got %q, want %q", s.See, want)
	}
}

// Who asks how full pools are does not read what calls the manager, and needs it for no check.
func TestProblemsOfPoolsNeedNothingThatIsReadForFindingsAlone(t *testing.T) {
	s := newScene()
	s.more = []client.Object{unbound("lb-old", "10.0.0.2")}
	source := s.source(t)
	source.ForFindings = false
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if findings, left := graph.Findings(limits, ChecksOfPools()...); len(findings) != 1 || len(left) > 0 {
		t.Errorf("got %+v, and left out are %v", findings, left)
	}
}

func TestProblemOfAPoolIsLookedAtTwice(t *testing.T) {
	s := newScene()
	s.gone = []client.Object{s.address}
	source := s.source(t)
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.address.ResourceVersion = ""
	if err := source.Client.Create(t.Context(), s.address); err != nil {
		t.Fatal(err)
	}
	report, err := source.AuditOf(t.Context(), graph, limits, 0, ChecksOfPools()...)
	if err != nil || report.Graph != graph || len(report.Findings) > 0 {
		t.Errorf("got %+v (%v), want nothing that is gone on the second look", report.Findings, err)
	}
}
