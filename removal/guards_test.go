package removal

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
)

var now = metav1.NewTime(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC))

// holder is a machine that has an address by a claim of its name.
func holder(name string) *inventory.Machine {
	m := &inventory.Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID(name), Finalizers: []string{ipam.ReleaseFinalizer},
	}}}
	m.Bindings = []ipam.Binding{{Claim: name + "-0", Address: netip.MustParsePrefix("10.0.0.1/24")}}
	return m
}

// claimOf is the claim of a machine.
func claimOf(m *inventory.Machine) object {
	return object{Kind: "IPClaim", Object: &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: m.Name + "-0", Labels: map[string]string{ipam.MachineLabel: "x"},
		Finalizers: []string{ipam.InUseFinalizer}, OwnerReferences: []metav1.OwnerReference{{UID: m.UID}},
	}}}
}

func addressOf(m *inventory.Machine) object {
	return object{Kind: "IPAddress", Object: &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: m.Name, Finalizers: []string{ipam.InUseFinalizer}, Annotations: map[string]string{ipam.MachineNameAnnotation: m.Name},
	}}}
}

// settled is the state of one machine that has what it needs.
func settled() (s *state, m *inventory.Machine, claim, address object) {
	m = holder("m")
	claim, address = claimOf(m), addressOf(m)
	return &state{graph: &inventory.Graph{Machines: []*inventory.Machine{m}}, claims: []object{claim}, addresses: []object{address}}, m, claim, address
}

func TestNothingIsBetweenWhereMachinesOwnTheirClaims(t *testing.T) {
	s, _, _, _ := settled()
	// Somebody else's, which is not ours to wait for.
	other := object{Kind: "IPClaim", Object: &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other", DeletionTimestamp: &now}}}
	gone := object{Kind: "IPAddress", Object: &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other", DeletionTimestamp: &now}}}
	endpoint := claimOf(holder("prod"))
	endpoint.SetOwnerReferences(nil)
	endpoint.SetAnnotations(map[string]string{ipam.ClusterNameAnnotation: "prod"})
	s.claims, s.addresses = append(s.claims, other, endpoint), append(s.addresses, gone)

	if got := s.between(); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

// A copy that was restored has another UID than the address says, until the manager has
// seen it, and has the address.
func TestAddressOfTheMachineThatIsThereIsNotBetween(t *testing.T) {
	s, m, _, address := settled()
	address.SetAnnotations(map[string]string{ipam.MachineNameAnnotation: m.Name, ipam.MachineUIDAnnotation: string(m.UID)})

	if got := s.between(); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
}

func TestWhatIsBetweenIsNamed(t *testing.T) {
	for want, change := range map[string]func(s *state, m *inventory.Machine, claim, address object){
		"IPClaim ns/m-0 is being deleted": func(_ *state, _ *inventory.Machine, claim, _ object) { claim.SetDeletionTimestamp(&now) },
		"IPClaim ns/m-0 has no machine":   func(_ *state, _ *inventory.Machine, claim, _ object) { claim.SetOwnerReferences(nil) },
		"IPClaim ns/n-0 has no machine":   func(s *state, _ *inventory.Machine, _, _ object) { s.claims = append(s.claims, claimOf(holder("n"))) },
		"IPAddress ns/m is kept for machine n, which is gone": func(_ *state, _ *inventory.Machine, _, address object) {
			address.SetAnnotations(map[string]string{ipam.MachineNameAnnotation: "n"})
		},
		"IPAddress ns/m is kept for an earlier machine m, which is gone": func(_ *state, _ *inventory.Machine, _, address object) {
			address.SetAnnotations(map[string]string{ipam.MachineNameAnnotation: "m", ipam.MachineUIDAnnotation: "an earlier life"})
		},
		"IPClaim ns/m-0 cools down": func(_ *state, _ *inventory.Machine, claim, _ object) {
			claim.SetAnnotations(map[string]string{ipam.ReleasedAtAnnotation: "2026-11-29T12:00:00Z", ipam.ClusterNameAnnotation: "prod"})
		},
		"IPAddress ns/m is being deleted":      func(_ *state, _ *inventory.Machine, _, address object) { address.SetDeletionTimestamp(&now) },
		"VSphereMachine ns/m is being deleted": func(_ *state, m *inventory.Machine, _, _ object) { m.DeletionTimestamp = &now },
		"VSphereMachine ns/m has 10.0.0.1, and does not own claim m-0": func(s *state, _ *inventory.Machine, _, _ object) {
			s.claims = nil
		},
		"and does not own claim m-0": func(_ *state, _ *inventory.Machine, claim, _ object) {
			claim.SetOwnerReferences([]metav1.OwnerReference{{UID: "another life of the machine"}})
		},
		"VSphereCluster ns/prod has 10.0.0.9, and its claim prod is gone": func(s *state, _ *inventory.Machine, _, _ object) {
			c := &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", Finalizers: []string{ipam.ReleaseFinalizer}}}
			s.graph.Clusters = append(s.graph.Clusters, &inventory.Cluster{VSphereCluster: c, Bindings: []ipam.Binding{{Claim: "prod", Address: netip.MustParsePrefix("10.0.0.9/24")}}})
		},
	} {
		s, m, claim, address := settled()
		change(s, m, claim, address)
		if got := s.between(); !slices.ContainsFunc(got, func(text string) bool { return strings.Contains(text, want) }) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func templateOf(labels map[string]string, device map[string]any) *unstructured.Unstructured {
	template := &unstructured.Unstructured{Object: map[string]any{}}
	template.SetNamespace("ns")
	template.SetName("t")
	template.SetLabels(labels)
	_ = unstructured.SetNestedSlice(template.Object, []any{device}, "spec", "template", "spec", "network", "devices")
	return template
}

func TestTemplateReliesOnUsIfItAsksAndHasNoOtherSource(t *testing.T) {
	asking := map[string]string{"cluster.x-k8s.io/ip-pool-name": "p"}
	for name, test := range map[string]struct {
		labels  map[string]string
		device  map[string]any
		relying bool
	}{
		"it asks":                    {asking, map[string]any{"networkName": "n"}, true},
		"it asks by a group":         {map[string]string{ipam.PoolGroupLabel: "g"}, map[string]any{"networkName": "n"}, true},
		"it does not ask":            {nil, map[string]any{"networkName": "n"}, false},
		"it has DHCP":                {asking, map[string]any{"dhcp4": true}, false},
		"it has DHCP of IPv6":        {asking, map[string]any{"dhcp6": true}, false},
		"CAPV claims":                {asking, map[string]any{"addressesFromPools": []any{map[string]any{"name": "p"}}}, false},
		"its addresses are written":  {asking, map[string]any{"ipAddrs": []any{"10.0.0.1/24"}}, false},
		"it needs none":              {asking, map[string]any{"skipIPAllocation": true}, false},
		"it says that it needs some": {asking, map[string]any{"skipIPAllocation": false}, true},
	} {
		template := templateOf(test.labels, test.device)
		s := &state{graph: &inventory.Graph{Templates: map[types.NamespacedName]*unstructured.Unstructured{{Namespace: "ns", Name: "t"}: template}}}
		if got := len(s.relying()) > 0; got != test.relying {
			t.Errorf("%s: it relies is %v, want %v", name, got, test.relying)
		}
	}
}

func TestMakersOfMachinesRelyOnUs(t *testing.T) {
	deployment := &unstructured.Unstructured{Object: map[string]any{"kind": "MachineDeployment"}}
	deployment.SetNamespace("ns")
	deployment.SetName("md")
	zone := object{Kind: "VSphereDeploymentZone", Object: &capi.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{
		Name: "a", Annotations: map[string]string{ipam.PoolsAnnotationPrefix + "0": "p"},
	}}}
	waiting := &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "prod", Annotations: map[string]string{ipam.PoolsAnnotationPrefix + ipam.EndpointDevice: "p"},
	}}
	served := waiting.DeepCopy()
	served.Name, served.Spec.ControlPlaneEndpoint.Host = "served", "10.0.0.9"
	s := &state{zones: []object{zone}, graph: &inventory.Graph{
		Workloads: []*inventory.Workload{{Unstructured: deployment, Template: "t", Asks: []ipam.Ask{{AskedBy: "label x"}}}},
		Clusters:  []*inventory.Cluster{{VSphereCluster: waiting}, {VSphereCluster: served}},
	}}

	got := strings.Join(s.relying(), "\n")

	for _, want := range []string{"MachineDeployment ns/md", "VSphereDeploymentZone a", "VSphereCluster ns/prod"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %s in it", got, want)
		}
	}
	if strings.Contains(got, "served") {
		t.Errorf("got %q, want nothing of the one that has its endpoint", got)
	}
}

func TestMachineWithoutItsAddressIsWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*inventory.Machine)
		waiting bool
	}{
		"it asks":              {func(*inventory.Machine) {}, true},
		"it does not ask":      {func(m *inventory.Machine) { m.Labels = nil }, false},
		"it has its addresses": {func(m *inventory.Machine) { m.Bindings = holder("m").Bindings }, false},
		"it has a VM":          {func(m *inventory.Machine) { m.Spec.ProviderID = "vsphere://1" }, false},
		"it goes":              {func(m *inventory.Machine) { m.DeletionTimestamp = &now }, false},
		"it has DHCP":          {func(m *inventory.Machine) { m.Spec.Network.Devices[0].DHCP4 = new(true) }, false},
	} {
		m := &inventory.Machine{VSphereMachine: &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "m", Labels: map[string]string{"cluster.x-k8s.io/ip-pool-name": "p"},
		}}}
		m.Spec.Network.Devices = []capi.Device{{NetworkName: "n"}}
		test.change(m)
		s := &state{graph: &inventory.Graph{Machines: []*inventory.Machine{m}}}
		if got := len(s.waiting()) > 0; got != test.waiting {
			t.Errorf("%s: it is waited for is %v, want %v", name, got, test.waiting)
		}
	}
}

func TestPausedClustersOfOursAreNamed(t *testing.T) {
	cluster := func(name string) *capi.Cluster {
		return &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: capi.ClusterSpec{Paused: new(true)}}
	}
	s, m, _, _ := settled()
	m.Labels = map[string]string{clusterv1.ClusterNameLabel: "prod"}
	runs := cluster("runs")
	*runs.Spec.Paused = false
	endpoint := cluster("endpoint")
	endpoint.Spec.InfrastructureRef = capi.Infrastructure{Kind: "VSphereCluster", Name: "e"}
	s.clusters = []*capi.Cluster{cluster("prod"), cluster("foreign"), runs, endpoint}
	s.graph.Clusters = []*inventory.Cluster{{VSphereCluster: &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e", Finalizers: []string{ipam.ReleaseFinalizer}}}}}

	if got, want := s.paused(), []string{"Cluster ns/prod", "Cluster ns/endpoint"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	m.Annotations = map[string]string{clusterv1.PausedAnnotation: ""}
	if got := s.paused(); len(got) != 3 || !strings.HasPrefix(got[0], "VSphereMachine ns/m") {
		t.Errorf("got %q, want the machine, too", got)
	}
}

func TestFinalizerIsTakenOffOnlyWhatIsAsItWasRead(t *testing.T) {
	ctx := t.Context()
	_, m, claim, _ := settled()
	claim.SetFinalizers([]string{"other", ipam.InUseFinalizer})
	scheme := clientgoscheme.Scheme
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim.Object).Build()
	stored := &ipamv1.IPClaim{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: "ns", Name: m.Name + "-0"}, stored); err != nil {
		t.Fatal(err)
	}
	stale := object{Kind: "IPClaim", Object: stored.DeepCopy()}
	stored.Labels["changed"] = "x"
	if err := c.Update(ctx, stored); err != nil {
		t.Fatal(err)
	}
	r := &Removal{Client: c}

	if err := r.dropFinalizers(ctx, stale); !apierrors.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
	if err := r.dropFinalizers(ctx, object{Kind: "IPClaim", Object: stored}); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(ctx, client.ObjectKeyFromObject(stored), stored); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(stored.Finalizers, []string{"other"}) {
		t.Errorf("got the finalizers %q, want that of others", stored.Finalizers)
	}
}

func TestManagerIsStoppedWhereNoReplicaIsWanted(t *testing.T) {
	for name, test := range map[string]struct {
		deployments []appsv1.Deployment
		want        bool
	}{
		"none is there":     {nil, true},
		"it is scaled to 0": {[]appsv1.Deployment{{Spec: appsv1.DeploymentSpec{Replicas: new(int32)}}}, true},
		"nothing is said":   {[]appsv1.Deployment{{}}, false},
	} {
		if got := (&state{deployments: test.deployments}).isStopped(); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestPodThatHasEndedDoesNotCount(t *testing.T) {
	for phase, want := range map[corev1.PodPhase]bool{corev1.PodFailed: true, corev1.PodSucceeded: true, corev1.PodRunning: false, corev1.PodUnknown: false} {
		if got := hasEnded(object{Object: &corev1.Pod{Status: corev1.PodStatus{Phase: phase}}}); got != want {
			t.Errorf("%s: got %v, want %v", phase, got, want)
		}
	}
}

func TestNamespaceWithThingsOfOthersStays(t *testing.T) {
	for name, test := range map[string]struct {
		app   string
		graph *inventory.Graph
		stays bool
	}{
		"a Pod of ours":   {installation.App, &inventory.Graph{}, false},
		"a Pod of others": {"other", &inventory.Graph{}, true},
		"a pool":          {installation.App, &inventory.Graph{Pools: []*inventory.Pool{{PoolKey: inventory.PoolKey{Namespace: "ours"}}}}, true},
		"a machine": {installation.App, &inventory.Graph{Machines: []*inventory.Machine{{VSphereMachine: &capi.VSphereMachine{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ours"},
		}}}}, true},
		"a VSphereCluster": {installation.App, &inventory.Graph{Clusters: []*inventory.Cluster{{VSphereCluster: &capi.VSphereCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ours"},
		}}}}, true},
		"a template": {installation.App, &inventory.Graph{Templates: map[types.NamespacedName]*unstructured.Unstructured{{Namespace: "ours", Name: "t"}: {}}}, true},
		"what makes machines": {installation.App, &inventory.Graph{Workloads: []*inventory.Workload{{Unstructured: &unstructured.Unstructured{
			Object: map[string]any{"metadata": map[string]any{"namespace": "ours"}},
		}}}}, true},
		"a Cluster elsewhere": {installation.App, &inventory.Graph{Clusters: []*inventory.Cluster{{VSphereCluster: &capi.VSphereCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: "theirs"},
		}}}}, false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "p", Labels: map[string]string{installation.AppLabel: test.app}}}
		r := &Removal{Client: fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(pod).Build()}
		namespace := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "ours", UID: "u"}}
		namespace.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: namespaceKind})
		s := &state{graph: test.graph, rest: []object{{Object: namespace, Kind: namespaceKind}}}
		if err := r.sparedNamespaces(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if got := len(s.kept) == 1 && len(s.rest) == 0; got != test.stays {
			t.Errorf("%s: it stays is %v, want %v", name, got, test.stays)
		}
	}
}

// asked answers reviews of access: nobody may do what is denied.
func asked(denied string) client.Client {
	return interceptor.NewClient(fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).Build(), interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.CreateOption) error {
			review := object.(*authorizationv1.SelfSubjectAccessReview)
			review.Status.Allowed = review.Spec.ResourceAttributes.Verb+" "+review.Spec.ResourceAttributes.Resource != denied
			return nil
		},
	})
}

func TestRightsThatAreMissingAreNamedBeforeAnythingIsDone(t *testing.T) {
	running := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "manager"}}
	for denied, want := range map[string][]string{"": nil, "patch deployments": {"patch deployments.apps in all namespaces"}} {
		r := &Removal{Client: asked(denied)}
		got, err := r.missingRights(t.Context(), &state{graph: &inventory.Graph{}, deployments: []appsv1.Deployment{running}})
		if err != nil || (got == nil) != (want == nil) || got != nil && !slices.Equal(got.Because, want) {
			t.Errorf("got %v and %v, want %q", got, err, want)
		}
	}
}

func TestSecondInstallationStopsTheRemoval(t *testing.T) {
	r := &Removal{Client: asked("")}
	deployments := []appsv1.Deployment{{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "manager"}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "manager"}}}

	stops, err := r.stops(t.Context(), &state{graph: &inventory.Graph{}, deployments: deployments})

	if err != nil || len(stops) != 1 || !slices.Equal(stops[0].Because, []string{"Deployment a/manager", "Deployment b/manager"}) {
		t.Errorf("got %v and %v, want a stop that names both", stops, err)
	}
}
