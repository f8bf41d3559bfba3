package late

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/machine"
)

// clusterOf is what VSphereClusters ask for here, of this Cluster.
type clusterOf struct {
	*capi.Cluster
	nothing bool
	err     error
}

func (c clusterOf) Endpoint(context.Context, *machine.VSphereCluster) (*ipam.Ask, *capi.Cluster, error) {
	if c.err != nil || c.nothing {
		return nil, c.Cluster, c.err
	}
	return &ipam.Ask{Endpoint: true, AskedBy: "the test"}, c.Cluster, nil
}

// clusterPlay is the controller over these objects.
type clusterPlay struct {
	*endpoints
	engine  *engine
	told    *events.FakeRecorder
	patches []string
	refuse  error
}

func playEndpoints(t *testing.T, demand EndpointDemand, objects ...client.Object) *clusterPlay {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := capi.AddToScheme(scheme, nil); err != nil {
		t.Fatal(err)
	}
	p := &clusterPlay{engine: &engine{}, told: events.NewFakeRecorder(20)}
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(), interceptor.Funcs{
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
			data, err := patch.Data(obj)
			p.patches = append(p.patches, string(data))
			return errors.Join(err, p.refuse)
		},
	})
	p.endpoints = &endpoints{
		allocator: p.engine, demand: demand, client: c, live: c, events: p.told, memory: newMemory(endpointsWaiting), now: func() time.Time { return start },
	}
	return p
}

func (p *clusterPlay) reconcile(t *testing.T) reconcile.Result {
	t.Helper()
	result, err := p.Reconcile(t.Context(), reconcile.Request{NamespacedName: key("ns", "prod")})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func clusterDue(changes ...func(*capi.VSphereCluster)) *capi.VSphereCluster {
	c := &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "uid", Annotations: map[string]string{
		ipam.PoolsAnnotationPrefix + ipam.EndpointDevice: "vips",
	}}}
	for _, change := range changes {
		change(c)
	}
	return c
}

func theCluster(changes ...func(*capi.Cluster)) *capi.Cluster {
	c := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
	c.Spec.InfrastructureRef = capi.Infrastructure{Kind: "VSphereCluster", Name: "prod"}
	for _, change := range changes {
		change(c)
	}
	return c
}

func TestEndpointIsWrittenInOnePatchAgainstTheVersionRead(t *testing.T) {
	p := playEndpoints(t, clusterOf{Cluster: theCluster()}, clusterDue(), theCluster())

	p.reconcile(t)

	if len(p.patches) != 1 {
		t.Fatalf("there are the patches %v, want one", p.patches)
	}
	for _, part := range []string{`/spec/controlPlaneEndpoint/host","value":"10.0.0.1"`, `/spec/controlPlaneEndpoint/port","value":6443`, ipam.ReleaseFinalizer, `/metadata/resourceVersion","value":"999"`} {
		if !strings.Contains(p.patches[0], part) {
			t.Errorf("the patch has no %s: %s", part, p.patches[0])
		}
	}
	if request := p.engine.requests[0]; request.UID != "uid" || request.Machine.Kind != ipam.OfCluster || request.Machine.Cluster != "prod" {
		t.Errorf("it was claimed for %+v with UID %q", request.Machine, request.UID)
	}
}

func TestVSphereClusterThatIsNotDueIsLeft(t *testing.T) {
	paused := func(c *capi.Cluster) { c.Spec.Paused = new(true) }
	hasEndpoint := func(c *capi.Cluster) { c.Spec.ControlPlaneEndpoint.Host = "10.0.0.9" }
	for name, test := range map[string]struct {
		object  *capi.VSphereCluster
		cluster *capi.Cluster
	}{
		"it has a host":               {clusterDue(func(c *capi.VSphereCluster) { c.Spec.ControlPlaneEndpoint.Host = "vip" }), theCluster()},
		"it asks for nothing":         {clusterDue(func(c *capi.VSphereCluster) { c.Annotations = nil }), theCluster()},
		"it is paused":                {clusterDue(func(c *capi.VSphereCluster) { c.Annotations[clusterv1.PausedAnnotation] = "" }), theCluster()},
		"its Cluster is paused":       {clusterDue(), theCluster(paused)},
		"its Cluster has an endpoint": {clusterDue(), theCluster(hasEndpoint)},
		"it is another's":             {clusterDue(), theCluster(func(c *capi.Cluster) { c.Spec.InfrastructureRef.Name = "dev" })},
		"its label names another": {clusterDue(func(c *capi.VSphereCluster) {
			c.Labels = map[string]string{clusterv1.ClusterNameLabel: "dev"}
		}), theCluster()},
	} {
		t.Run(name, func(t *testing.T) {
			p := playEndpoints(t, clusterOf{Cluster: theCluster()}, test.object, test.cluster)
			p.reconcile(t)
			if len(p.engine.requests)+len(p.patches) > 0 {
				t.Errorf("there are the requests %v and the patches %v", p.engine.requests, p.patches)
			}
		})
	}
}

// The cache may be behind with the Cluster.
func TestClusterIsJudgedByTheAPIServer(t *testing.T) {
	for name, live := range map[string]*capi.Cluster{
		"gone":   nil,
		"paused": theCluster(func(c *capi.Cluster) { c.Spec.Paused = new(true) }),
		"served": theCluster(func(c *capi.Cluster) { c.Spec.ControlPlaneEndpoint.Host = "10.0.0.9" }),
	} {
		t.Run(name, func(t *testing.T) {
			p := playEndpoints(t, clusterOf{Cluster: live}, clusterDue(), theCluster())
			p.reconcile(t)
			if len(p.engine.requests) > 0 || p.memory.isAnswered(clusterDue()) {
				t.Errorf("there are the requests %v", p.engine.requests)
			}
		})
	}
}

func TestVSphereClusterThatIsRefusedWaitsAndIsTold(t *testing.T) {
	p := playEndpoints(t, clusterOf{Cluster: theCluster()}, clusterDue(), theCluster())
	pool := metal3.PoolNamed("vips")
	refusal := &ipam.Refusal{Reason: ipam.PoolExhausted, Message: "it is full"}
	refusal.Shortages = []ipam.Shortage{{Pool: pool, Needed: 1}}
	p.engine.err = refusal

	if result := p.reconcile(t); result.RequeueAfter != firstWait {
		t.Errorf("it is tried again after %s, want %s", result.RequeueAfter, firstWait)
	}

	if waiting := p.memory.waitingFor(pool, "ns"); len(waiting) != 1 {
		t.Errorf("the pool wakes %v", waiting)
	}
	if len(p.told.Events) != 2 {
		t.Errorf("there are %d events, want one on it and one on its Cluster", len(p.told.Events))
	}
}

// An endpoint that the Cluster has stays; what else was claimed is reaped, since nothing
// uses it again.
func TestOnlyTheEndpointOfTheClusterIsInjected(t *testing.T) {
	cluster := theCluster(func(c *capi.Cluster) { c.Spec.ControlPlaneEndpoint.Host = "10.0.0.2" })
	p := playEndpoints(t, clusterOf{Cluster: cluster}, clusterDue(), cluster)
	p.engine.held = []ipam.Binding{{Address: netip.MustParsePrefix("10.0.0.2/32")}}

	p.reconcile(t)
	p.reconcile(t)

	if len(p.patches) > 0 || len(p.engine.requests) != 1 || len(p.told.Events) != 2 {
		t.Errorf("there are %d requests, the patches %v and %d events", len(p.engine.requests), p.patches, len(p.told.Events))
	}
}
