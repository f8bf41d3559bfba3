package inventory

import (
	"context"
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

var limits = Limits{Claim: 10 * time.Minute, ReuseAfter: time.Hour}

func TestFindings(t *testing.T) {
	ago := func(d time.Duration) *metav1.Time {
		at := metav1.NewTime(noon.Add(-d))
		return &at
	}
	for name, test := range map[string]struct {
		change func(*scene)
		// want is one finding as CHECK SEVERITY OBJECT, nothing if all is well.
		want string
	}{
		"nothing": {func(*scene) {}, ""},

		"an address also by hand on another machine": {func(s *scene) { s.more = []client.Object{unbound("lb", "10.0.0.2")} }, "SIP-001 error 10.0.0.2"},
		"an address on another network": {func(s *scene) {
			other := unbound("lb", "10.0.0.2")
			other.Spec.Network.Devices[0].NetworkName = "other"
			s.more = []client.Object{other}
		}, ""},
		"two addresses by hand": {func(s *scene) { s.more = []client.Object{unbound("a", "10.9.0.2"), unbound("b", "10.9.0.2")} }, "SIP-001 warning 10.9.0.2"},
		"an address that the guest of another VM reports": {func(s *scene) {
			s.more = []client.Object{s.vmOf(unbound("lb", "10.9.0.9"), "10.9.0.9", "10.0.0.2"), unbound("lb", "10.9.0.9")}
		}, "SIP-001 warning 10.0.0.2"},

		"a link-local address that guests report": {func(s *scene) {
			s.vm.Status.Addresses = append(s.vm.Status.Addresses, "169.254.0.1")
			m, claim, address := s.bound("other", "169.254.0.1")
			s.more = []client.Object{m, claim, address}
			s.pool.Spec.Pools = append(s.pool.Spec.Pools, s.anotherPool("169.254.0.1", "169.254.0.1").Spec.Pools...)
		}, ""},

		"pools that overlap": {func(s *scene) { s.more = []client.Object{s.anotherPool("10.0.0.7", "10.0.0.9")} }, "SIP-002 warning IPPool ns/pool"},
		"pools that overlap on different networks": {func(s *scene) {
			other := s.anotherPool("10.0.0.7", "10.0.0.9")
			s.pool.Annotations[ipam.NetworksAnnotation], other.Annotations[ipam.NetworksAnnotation] = "n", "other"
			s.more = []client.Object{other}
		}, ""},

		"an address outside of its pool": {func(s *scene) { *s.pool.Spec.Pools[0].Start = "10.0.0.3" }, "SIP-003 warning IPPool ns/pool"},
		"one that is kept for its claim, outside of its pool": {func(s *scene) {
			*s.pool.Spec.Pools[0].Start = "10.0.0.3"
			s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"m-0": "10.0.0.2"}
		}, ""},

		"a claim whose machine was never stored": {func(s *scene) { s.gone = []client.Object{s.machine, s.vm} }, "SIP-004 error claim ns/m-0"},
		"the same a moment ago":                  {func(s *scene) { s.gone = []client.Object{s.machine, s.vm}; s.stamp(time.Minute) }, ""},
		"the same in a Cluster that is paused":   {func(s *scene) { s.gone = []client.Object{s.machine, s.vm}; s.cluster.Spec.Paused = new(true) }, ""},
		"a claim that cools down":                {func(s *scene) { s.cool(30 * time.Minute) }, ""},
		"a claim that cools down for hours":      {func(s *scene) { s.cool(5 * time.Hour) }, "SIP-004 error claim ns/m-0"},
		"the same, and its pool has it so":       {func(s *scene) { s.cool(5 * time.Hour); s.pool.Annotations[ipam.ReuseAfterAnnotation] = "6h" }, ""},
		"the same, and its pool is gone":         {func(s *scene) { s.cool(5 * time.Hour); s.gone = append(s.gone, s.pool) }, "SIP-004 error claim ns/m-0"},
		"its pool may be about to come":          {func(s *scene) { s.cool(50 * time.Minute); s.gone = append(s.gone, s.pool) }, ""},
		"the same, moved here a moment ago": {func(s *scene) {
			s.cool(5 * time.Hour)
			s.gone = append(s.gone, s.pool)
			s.claim.CreationTimestamp, s.address.CreationTimestamp = *ago(time.Minute), *ago(time.Minute)
		}, ""},
		"a claim of an endpoint that nothing uses": {func(s *scene) { s.more = s.endpoint("10.0.0.5"); s.vsphere.Spec.ControlPlaneEndpoint.Host = "" }, "SIP-004 error claim ns/prod"},

		"an address protected for nobody": {func(s *scene) { s.gone = []client.Object{s.machine, s.vm, s.claim} }, "SIP-005 error address ns/pool-10.0.0.2"},
		"an address protected for a VM":   {func(s *scene) { s.gone = []client.Object{s.machine, s.claim} }, ""},

		"an address protected for a VM without owner": {func(s *scene) { s.gone = []client.Object{s.machine, s.claim}; s.vm.OwnerReferences = nil }, ""},

		"a machine whose claim is that of another": {func(s *scene) {
			s.claim.Annotations[ipam.MachineNameAnnotation] = "other"
			s.more = []client.Object{unbound("other", "10.9.0.1")}
		}, "SIP-006 error VSphereMachine ns/m"},
		"a machine whose address has no object":   {func(s *scene) { s.gone = []client.Object{s.address} }, "SIP-006 error VSphereMachine ns/m"},
		"a machine whose address only we protect": {func(s *scene) { s.gone = []client.Object{s.claim} }, ""},
		"a machine that nothing protects":         {func(s *scene) { s.gone = []client.Object{s.claim}; s.address.Finalizers = nil }, "SIP-006 error VSphereMachine ns/m"},
		"a machine that moved away": {func(s *scene) {
			s.gone = []client.Object{s.address}
			s.machine.Annotations[clusterctlv1.DeleteForMoveAnnotation] = ""
		}, ""},
		"a machine whose bindings cannot be read": {func(s *scene) { s.machine.Annotations[ipam.BindingsAnnotation] = "{" }, "SIP-006 error VSphereMachine ns/m"},
		"a machine whose address cools down":      {func(s *scene) { s.cool(time.Minute); s.gone = nil }, "SIP-006 error VSphereMachine ns/m"},
		"a VM without machine that reports the endpoint": {func(s *scene) {
			s.gone = []client.Object{s.machine, s.claim}
			s.more = s.endpoint("10.0.0.5")
			s.vm.Status.Addresses = append(s.vm.Status.Addresses, "10.0.0.5")
		}, ""},
		"a VM without machine whose address is free": {func(s *scene) { s.gone = []client.Object{s.machine, s.claim, s.address} }, "SIP-006 error VSphereVM ns/m"},
		"an endpoint":                   {func(s *scene) { s.more = s.endpoint("10.0.0.5") }, ""},
		"an endpoint that nobody keeps": {func(s *scene) { s.more = s.endpoint("10.9.0.5")[:0] }, "SIP-006 error VSphereCluster ns/prod"},

		"a machine that waits": {func(s *scene) { s.more = []client.Object{s.waiting(time.Hour)} }, "SIP-007 warning VSphereMachine ns/waits"},
		"a device that came to a machine which runs": {func(s *scene) {
			m := s.waiting(time.Hour)
			m.Spec.ProviderID = "vsphere://x"
			s.more = []client.Object{m}
		}, ""},
		"a machine that was stored just now": {func(s *scene) { s.more = []client.Object{s.waiting(time.Second)} }, ""},
		"a machine that waits, and is deleted": {func(s *scene) {
			m := s.waiting(time.Hour)
			m.DeletionTimestamp, m.Finalizers = ago(time.Second), []string{"capv"}
			s.more = []client.Object{m}
		}, ""},

		"a pool with its gateway in it":                   {func(s *scene) { *s.pool.Spec.Gateway = "10.0.0.7" }, "SIP-008 warning IPPool ns/pool"},
		"a pool with an endpoint in it":                   {func(s *scene) { s.cluster.Spec.ControlPlaneEndpoint.Host = "10.0.0.6" }, "SIP-008 warning IPPool ns/pool"},
		"an in-cluster pool, that leaves out its gateway": {func(s *scene) { s.more = []client.Object{s.inCluster("other", "10.7.0.0/28", "10.7.0.1", "")} }, ""},
		"an in-cluster pool with a name server in it":     {func(s *scene) { s.more = []client.Object{s.inCluster("other", "10.7.0.0/28", "10.7.0.1", "10.7.0.5")} }, "SIP-008 warning InClusterIPPool ns/other"},

		"a pool that reserves the endpoint in it": {func(s *scene) {
			s.cluster.Spec.ControlPlaneEndpoint.Host = "10.0.0.6"
			s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"vip": "10.0.0.6"}
		}, ""},

		"two pools of one name": {func(s *scene) { s.more = []client.Object{s.inCluster("pool", "10.7.0.0/28", "10.7.0.1", "")} }, "SIP-009 warning IPPool ns/pool"},

		"just enough for a roll-out": {func(s *scene) { *s.pool.Spec.Pools[0].End = "10.0.0.3" }, ""},
		"too few for a roll-out":     {func(s *scene) { *s.pool.Spec.Pools[0].End = "10.0.0.2" }, "SIP-010 warning IPPool ns/pool"},

		"no webhook":                     {func(s *scene) { s.gone = []client.Object{s.webhook} }, "SIP-011 error webhook " + webhookName},
		"a webhook that may be left out": {func(s *scene) { s.webhook.Webhooks[0].FailurePolicy = new(admissionv1.Ignore) }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook without conditions":   {func(s *scene) { s.webhook.Webhooks[0].MatchConditions = nil }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook without updates": {func(s *scene) {
			s.webhook.Webhooks[0].Rules[0].Operations = s.webhook.Webhooks[0].Rules[0].Operations[:1]
		}, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook that nobody believes":  {func(s *scene) { s.webhook.Webhooks[0].ClientConfig.CABundle = nil }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook of an authority's end": {func(s *scene) { s.webhook.Webhooks[0].ClientConfig.CABundle = authority(noon.Add(24 * time.Hour)) }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook without endpoints":     {func(s *scene) { s.gone = []client.Object{s.slice} }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook with those of another": {func(s *scene) { s.slice.Labels[discoveryv1.LabelServiceName] = "metrics" }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a webhook with no ready one":     {func(s *scene) { s.slice.Endpoints[0].Conditions.Ready = new(false) }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a certificate that ends soon":    {func(s *scene) { s.more = []client.Object{certificate(noon.Add(24 * time.Hour))} }, "SIP-011 error MutatingWebhookConfiguration mutating"},
		"a certificate that ends later":   {func(s *scene) { s.more = []client.Object{certificate(noon.Add(8 * 24 * time.Hour))} }, ""},

		"a guest with another address":    {func(s *scene) { s.vm.Status.Addresses = []string{"10.9.0.2"} }, "SIP-012 warning VSphereMachine ns/m"},
		"a guest that says nothing yet":   {func(s *scene) { s.vm.Status.Addresses = nil }, ""},
		"a guest with a link-local alone": {func(s *scene) { s.vm.Status.Addresses = []string{"fe80::1", "169.254.0.1"} }, ""},

		"an owner that waits for what is there": {func(s *scene) { s.more = []client.Object{refused(time.Hour)} }, "SIP-013 warning MachineSet ns/set"},
		"an owner that waits for more than is there": {func(s *scene) {
			set := refused(time.Hour)
			set.GetAnnotations()[ipam.RefusedByAnnotation] += ":9"
			s.more = []client.Object{set}
		}, ""},
		"an owner that was refused a moment ago": {func(s *scene) { s.more = []client.Object{refused(time.Minute)} }, ""},
		"an owner that waits for what is not there": {func(s *scene) {
			s.more = []client.Object{refused(time.Hour)}
			s.pool.Name = "elsewhere"
			s.everywhere("elsewhere")
		}, ""},

		"a claim of the adapter": {func(s *scene) {
			s.claim.Labels, s.claim.Annotations = nil, map[string]string{ipam.MachineNameAnnotation: "m"}
		}, "SIP-014 warning claim ns/m-0"},

		"a claim of the adapter in a Cluster that is paused": {func(s *scene) {
			s.claim.Labels, s.claim.Annotations = nil, map[string]string{ipam.MachineNameAnnotation: "m"}
			s.cluster.Spec.Paused = new(true)
		}, ""},
		"a claim of the adapter for a machine that is paused": {func(s *scene) {
			s.claim.Labels, s.claim.Annotations = nil, map[string]string{ipam.MachineNameAnnotation: "m"}
			s.machine.Annotations[clusterv1.PausedAnnotation] = ""
		}, ""},
		"a claim of the adapter for what its machine does not have": {func(s *scene) {
			_, claim, address := s.bound("a", "10.0.0.4")
			claim.Labels, claim.Annotations, address.Finalizers = nil, nil, nil
			s.more = []client.Object{unbound("a", "10.9.0.1"), claim, address}
		}, ""},

		"a pool that stays behind": {func(s *scene) { s.pool.Spec.ClusterName = nil }, "SIP-015 warning IPPool ns/pool"},
		"a pool that is labelled to move": {func(s *scene) {
			s.pool.Spec.ClusterName = nil
			s.pool.Labels[clusterctlv1.ClusterctlMoveHierarchyLabel] = ""
		}, ""},

		"a claim that failed": {func(s *scene) { s.more = []client.Object{failed(dawn)} }, "SIP-016 warning claim ns/theirs"},
		"one that failed now": {func(s *scene) { s.more = []client.Object{failed(metav1.NewTime(noon))} }, ""},

		"an address by hand in a pool": {func(s *scene) { s.more = []client.Object{unbound("lb", "10.0.0.6")} }, "SIP-017 warning VSphereMachine ns/lb"},
		"an address by hand that the pool reserves": {func(s *scene) {
			s.pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"lb-0": "10.0.0.6"}
			s.more = []client.Object{unbound("lb", "10.0.0.6")}
		}, ""},

		"a machine that waits for us alone": {func(s *scene) { s.machine.DeletionTimestamp = ago(time.Hour) }, "SIP-018 error VSphereMachine ns/m"},
		"one that waits since a moment":     {func(s *scene) { s.machine.DeletionTimestamp = ago(time.Second) }, ""},
		"one that waits for somebody else": {func(s *scene) {
			s.machine.DeletionTimestamp, s.machine.Finalizers = ago(time.Hour), []string{"capv", ipam.ReleaseFinalizer}
		}, ""},
		"a claim that is held for nobody": {func(s *scene) {
			s.gone = []client.Object{s.machine, s.vm, s.address}
			s.claim.DeletionTimestamp, s.claim.Finalizers = ago(time.Second), []string{ipam.InUseFinalizer}
		}, "SIP-018 error claim ns/m-0"},
		"a claim that is held for an endpoint": {func(s *scene) {
			s.more = s.endpoint("10.0.0.5")
			s.more[0].SetDeletionTimestamp(ago(time.Second))
			s.more[0].SetFinalizers([]string{ipam.InUseFinalizer})
		}, ""},
		"a claim that is held for its machine": {func(s *scene) {
			s.claim.DeletionTimestamp, s.claim.Finalizers = ago(time.Second), []string{ipam.InUseFinalizer}
		}, ""},

		"a pool that is frozen": {func(s *scene) { s.pool.Annotations[ipam.FrozenAnnotation] = "restore" }, "SIP-019 warning IPPool ns/pool"},
		"an owner that was refused because its pool is frozen": {func(s *scene) {
			s.pool.Annotations[ipam.FrozenAnnotation] = "restore"
			s.more = []client.Object{refused(time.Hour)}
		}, "SIP-019 warning IPPool ns/pool"},
		"a namespace that is frozen": {func(s *scene) { s.more = []client.Object{frozen("ns")} }, "SIP-019 warning Namespace ns"},
		"a namespace that is not":    {func(s *scene) { s.more = []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}} }, ""},
		"a deletion that waits for the end of a freeze": {func(s *scene) {
			s.machine.DeletionTimestamp = ago(time.Hour)
			s.more = []client.Object{frozen("ns")}
		}, "SIP-019 warning Namespace ns"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			s.expect(t, test.want)
		})
	}
}

// frozen is a namespace that is.
func frozen(name string) client.Object {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{ipam.FrozenAnnotation: "restore"}}}
}

// Who ends the freeze has to know what goes then.
func TestClaimOfNobodyIsSaidToGoWithTheFreeze(t *testing.T) {
	s := newScene()
	s.gone = []client.Object{s.machine, s.vm}
	s.pool.Annotations[ipam.FrozenAnnotation] = "restore"
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, _ := graph.Findings(limits, ClaimOfNobody)
	const want = `IPPool "pool" in namespace "ns" is frozen (restore): bring back what the claim is of before that ends, or it is deleted then`
	if len(findings) != 1 || findings[0].Remedy != want {
		t.Errorf("got %+v, want the remedy %s", findings, want)
	}
}

// expect looks for findings, and wants this one or none.
func (s *scene) expect(t *testing.T, want string) {
	t.Helper()
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph.Workloads[0].askFor(metal3.PoolNamed("pool"))
	findings, left := graph.Findings(limits)
	if len(left) > 0 {
		t.Errorf("checks were left out: %v", left)
	}
	var got []string
	for _, f := range findings {
		got = append(got, string(f.Check)+" "+string(f.Severity)+" "+f.Object)
		if f.Text == "" || f.Remedy == "" {
			t.Errorf("%s %s has no text or no remedy", f.Check, f.Object)
		}
	}
	if want == "" && len(got) > 0 || want != "" && !slices.Equal(got, []string{want}) {
		t.Errorf("got %q, want %q: %+v", got, want, findings)
	}
}

// Each of them is found in one of the scenes above, or below.
func TestChecksAreNumbered(t *testing.T) {
	ids := CheckIDs()
	if len(ids) != 20 || !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("got %q, want 20 of them in order", ids)
	}
}

func TestMachineWithTheEndpointOfItsCluster(t *testing.T) {
	s := newScene()
	s.more = s.endpoint("10.0.0.2")
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	findings, _ := graph.Findings(limits, AddressTwice)
	if len(findings) != 1 || findings[0].Text != "has 10.0.0.2, the endpoint of VSphereCluster ns/prod" || findings[0].Severity != Failing {
		t.Errorf("got %+v, want that a machine has the endpoint", findings)
	}
}

// Who else has addresses of it is not seen then.
func TestPoolOfAllNamespacesIsNotJudgedByOneOfThem(t *testing.T) {
	s := newScene()
	pool := s.inCluster("everywhere", "10.7.0.1", "10.7.0.1", "")
	pool.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind("ipam.cluster.x-k8s.io/v1alpha2", "GlobalInClusterIPPool"))
	pool.SetNamespace("")
	s.more = []client.Object{pool}
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph.Workloads[0].askFor(ipam.PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool", Name: "everywhere"})
	for _, ofSome := range []bool{false, true} {
		graph.ofSome = ofSome
		if findings, _ := graph.Findings(limits, TooFewForRollOut); (len(findings) == 0) != ofSome {
			t.Errorf("read in part (%t), got %+v", ofSome, findings)
		}
	}
}

// What is missing because it may not be listed must not look as if it were not there.
// A pool of all namespaces has claims of machines that are not looked at.
func TestClaimOfAnotherNamespaceIsNotOfAMissingMachine(t *testing.T) {
	s := newScene()
	shared := anObject("ipam.cluster.x-k8s.io/v1alpha2", "GlobalInClusterIPPool", "shared", map[string]any{
		"addresses": []any{"10.1.0.2-10.1.0.9"}, "prefix": int64(24),
	})
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metaOf("m-0")}
	claim.Namespace = "other"
	claim.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool", Name: "shared"}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "other", Name: "m"}})
	ipam.Use(claim, ipam.Stamp{Time: dawn.Time, Request: "r"})
	s.more = []client.Object{shared, claim}
	source := s.source(t)
	source.Namespace = "ns"

	report, err := source.Audit(t.Context(), Limits{}, 0)

	if err != nil || len(report.Findings) > 0 {
		t.Errorf("got %v, error %v", report.Findings, err)
	}
}

func TestChecksAreLeftOutWithoutWhatTheyNeed(t *testing.T) {
	s := newScene()
	s.gone = []client.Object{s.machine}
	source := s.source(t)
	source.Client = interceptor.NewClient(s.client(t), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*capi.VSphereVMList); ok {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "vspherevms"}, "", nil)
			}
			return c.List(ctx, list, opts...)
		},
	})
	source.Reader = source.Client

	report, err := source.Audit(t.Context(), limits, 0)

	if err != nil {
		t.Fatal(err)
	}
	var left []CheckID
	for _, l := range report.LeftOut {
		left = append(left, l.Check)
	}
	if want := []CheckID{AddressTwice, ProtectedNobody, NotBound, GuestDisagrees, DeletionHangs}; !slices.Equal(left, want) {
		t.Errorf("left out are %q, want %q", left, want)
	}
	if got := report.LeftOut[0].String(); got != "SIP-001 is left out: it needs VSphereVMs" {
		t.Errorf("it says %q", got)
	}
	if len(report.Findings) != 1 || report.Findings[0].Check != ClaimOfNobody {
		t.Errorf("got %+v, want what can be seen without VMs", report.Findings)
	}
}

// Lists are not of one moment: what is gone on the second look was never there.
func TestSecondLookDropsWhatIsGone(t *testing.T) {
	s := newScene()
	s.gone = []client.Object{s.address}
	s.more = []client.Object{unbound("lb", "10.0.0.6")}
	c := s.client(t)
	source := s.source(t)
	lists := map[string][]string{}
	reader := interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			o := &client.ListOptions{}
			o.ApplyOptions(opts)
			if _, ok := list.(*capi.VSphereMachineList); ok {
				lists["machines"] = append(lists["machines"], o.Namespace)
			}
			if _, ok := list.(*ipamv1.IPAddressList); ok && len(lists["machines"]) == 2 {
				s.address.ResourceVersion = ""
				if err := c.Create(ctx, s.address); err != nil {
					return err
				}
			}
			return c.List(ctx, list, opts...)
		},
	})
	source.Client, source.Reader = reader, reader

	report, err := source.Audit(t.Context(), limits, 0)

	if err != nil {
		t.Fatal(err)
	}
	if len(report.Findings) != 1 || report.Findings[0].Check != ByHandInPool {
		t.Errorf("got %+v, want the one that is still there", report.Findings)
	}
	if want := []string{"", "ns"}; !slices.Equal(lists["machines"], want) {
		t.Errorf("machines were listed in %q, want all namespaces, and then the suspicious one", lists["machines"])
	}
}

func TestNothingSuspiciousIsReadOnce(t *testing.T) {
	s := newScene()
	s.pool.Spec.ClusterName = nil // is settled: a pool does not get there by chance
	source := s.source(t)
	reads := 0
	reader := interceptor.NewClient(s.client(t), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*capi.VSphereMachineList); ok {
				reads++
			}
			return c.List(ctx, list, opts...)
		},
	})
	source.Client, source.Reader = reader, reader
	report, err := source.Audit(t.Context(), limits, time.Hour)
	if err != nil || reads != 1 || len(report.Findings) != 1 {
		t.Errorf("got %d reads, %v and %v, want one read, and the pool", reads, report, err)
	}
}
