package endpoint

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/kube"
)

var key = types.NamespacedName{Namespace: "ns", Name: "prod"}

// scene is what the cache and the API server have, which need not be the same.
type scene struct {
	*testing.T
	*reconciler
	api client.Client
}

func newScene(t *testing.T, cached []client.Object, stored ...client.Object) *scene {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, err := range []error{capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	with := func(objects []client.Object) client.Client {
		provider := contract.Provider{}
		builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
			WithIndex(&capiipamv1.IPAddressClaim{}, byCluster, index(clusterOfClaim)).
			WithIndex(&capiipamv1.IPAddress{}, byCluster, index(func(obj client.Object) string { return clusterOf(obj, provider.ReadAddress(obj).Claim) }))
		for _, user := range capi.Users() {
			builder = builder.WithIndex(user, "capv-static-ip.dev/ip", func(obj client.Object) []string {
				var ips []string
				for _, place := range obj.(capi.User).Addresses() {
					ips = append(ips, place.IP.String())
				}
				return ips
			})
		}
		return builder.Build()
	}
	api := with(stored)
	seen := api
	if cached != nil {
		seen = with(cached)
	}
	return &scene{T: t, api: api, reconciler: &reconciler{
		providers: ipam.NewProviders(contract.Provider{Mapper: api.RESTMapper(), Live: api}), client: split{Client: api, cache: seen}, live: api, pools: seen,
		events: events.NewFakeRecorder(10), grace: grace, now: time.Now,
	}}
}

// split reads from a cache and writes to the API.
type split struct {
	client.Client
	cache client.Client
}

func (s split) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	return s.cache.Get(ctx, key, obj, opts...)
}

func (s split) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return s.cache.List(ctx, list, opts...)
}

func (s *scene) reconcile() reconcile.Result {
	s.Helper()
	result, err := s.Reconcile(s.Context(), reconcile.Request{NamespacedName: key})
	if err != nil {
		s.Fatal(err)
	}
	return result
}

// has tells whether the API server has an object that is not being deleted.
func (s *scene) has(obj client.Object) bool {
	s.Helper()
	err := s.api.Get(s.Context(), key, obj)
	if client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	return err == nil && obj.GetDeletionTimestamp().IsZero()
}

func (s *scene) expectHeld() {
	s.Helper()
	address := &capiipamv1.IPAddress{}
	if !s.has(&capiipamv1.IPAddressClaim{}) || !s.has(address) || !ipam.IsProtected(address) {
		s.Error("the endpoint is not held any more")
	}
}

func (s *scene) expectFree() {
	s.Helper()
	address := &capiipamv1.IPAddress{}
	if s.has(&capiipamv1.IPAddressClaim{}) || s.has(address) && ipam.IsProtected(address) {
		s.Error("the endpoint is held still")
	}
}

func storedClaim(change ...func(client.Object)) client.Object {
	claim := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "claim"}}
	claim.Status.AddressRef.Name = "prod"
	ipam.Mark(claim, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: key})
	ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-time.Hour), Request: "request"})
	for _, change := range change {
		change(claim)
	}
	return claim
}

func storedAddress() client.Object {
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
	address.Spec.Address, address.Spec.ClaimRef.Name = "10.0.0.1", "prod"
	ipam.ProtectFor(address, prod)
	return address
}

func storedVSphereCluster(change ...func(client.Object)) client.Object {
	cluster := &capi.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod", UID: "cluster", Finalizers: []string{ipam.ReleaseFinalizer}}}
	cluster.Spec.ControlPlaneEndpoint.Host = "10.0.0.1"
	for _, change := range change {
		change(cluster)
	}
	return cluster
}

func deleted(obj client.Object) { obj.SetDeletionTimestamp(&metav1.Time{Time: time.Now()}) }

// using is a Cluster with the endpoint.
func using(change ...func(client.Object)) client.Object {
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other-name"}}
	cluster.Spec.ControlPlaneEndpoint.Host = "10.0.0.1"
	for _, change := range change {
		change(cluster)
	}
	return cluster
}

func TestVSphereClusterThatIsDoneGivesItsEndpointBack(t *testing.T) {
	s := newScene(t, nil, storedVSphereCluster(deleted), storedClaim(), storedAddress())

	s.reconcile()

	s.expectFree()
	if err := s.api.Get(t.Context(), key, &capi.VSphereCluster{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the VSphereCluster is there still: %v", err)
	}
}

func TestEndpointOfALivingClusterIsNeverFree(t *testing.T) {
	for name, test := range map[string]struct {
		cached, stored []client.Object
		free           bool
	}{
		"the VSphereCluster is done":       {nil, []client.Object{storedVSphereCluster(deleted), using()}, false},
		"it is gone":                       {nil, []client.Object{using()}, false},
		"the cache has no Cluster yet":     {[]client.Object{storedVSphereCluster(deleted)}, []client.Object{storedVSphereCluster(deleted), using()}, false},
		"the cache has no VSphereCluster":  {[]client.Object{}, []client.Object{storedVSphereCluster()}, false},
		"the Cluster is being deleted":     {nil, []client.Object{storedVSphereCluster(deleted), using(deleted, finalized)}, true},
		"the Cluster has another endpoint": {nil, []client.Object{storedVSphereCluster(deleted), using(func(obj client.Object) { obj.(*capi.Cluster).Spec.ControlPlaneEndpoint.Host = "10.0.0.2" })}, true},
	} {
		t.Run(name, func(t *testing.T) {
			both := []client.Object{storedClaim(), storedAddress()}
			if test.cached != nil {
				test.cached = append(test.cached, storedClaim(), storedAddress())
			}
			s := newScene(t, test.cached, append(test.stored, both...)...)
			s.memory.departed = map[types.NamespacedName]bool{key: true}
			s.grace = 0
			// What is seen first is not seen for long enough.
			s.reconcile()
			s.now = func() time.Time { return time.Now().Add(time.Hour) }
			s.reconcile()

			if test.free {
				s.expectFree()
				return
			}
			s.expectHeld()
		})
	}
}

func finalized(obj client.Object) { obj.SetFinalizers([]string{"example.org/hold"}) }

func TestVSphereClusterGoesWithoutAnEndpointThatIsInUse(t *testing.T) {
	s := newScene(t, nil, storedVSphereCluster(deleted), storedClaim(), storedAddress(), using())

	if result := s.reconcile(); result.RequeueAfter == 0 {
		t.Error("it is not looked at again")
	}

	s.expectHeld()
	if err := s.api.Get(t.Context(), key, &capi.VSphereCluster{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the VSphereCluster is there still: %v", err)
	}
}

func TestEndpointIsAdoptedAndMarksAreRestored(t *testing.T) {
	unmarked := storedVSphereCluster(func(obj client.Object) {
		obj.SetFinalizers(nil)
		obj.SetLabels(map[string]string{clusterv1.ClusterNameLabel: "prod"})
	})
	requested := storedClaim(func(obj client.Object) { kube.SetAnnotation(obj, ipam.RequestedByAnnotation, "none") })
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
	s := newScene(t, nil, unmarked, requested, storedAddress(), cluster)

	s.reconcile()

	s.expectHeld()
	claim, stored := &capiipamv1.IPAddressClaim{}, &capi.VSphereCluster{}
	if s.has(claim); claim.Annotations[ipam.RequestedByAnnotation] != "" || claim.Labels[clusterv1.ClusterNameLabel] != "prod" || len(claim.OwnerReferences) > 0 {
		t.Errorf("the claim is %+v", claim.ObjectMeta)
	}
	if s.has(stored); len(stored.Finalizers) != 1 || stored.Annotations[ipam.BindingsAnnotation] == "" {
		t.Errorf("the VSphereCluster is %+v", stored.ObjectMeta)
	}
}

func TestClaimThatAMoveLeftUnboundIsTheEndpointsAllTheSame(t *testing.T) {
	unbound := storedClaim(func(obj client.Object) { obj.(*capiipamv1.IPAddressClaim).Status.AddressRef.Name = "" })
	answer := storedAddress()
	answer.SetOwnerReferences([]metav1.OwnerReference{{Kind: "IPAddressClaim", Name: "prod", UID: "claim"}})
	s := newScene(t, nil, storedVSphereCluster(), unbound, answer)

	s.reconcile()
	s.now = func() time.Time { return time.Now().Add(2 * restorePatience) }
	s.reconcile()

	s.expectHeld()
}

func TestClaimOfAVSphereClusterThatNeverCameIsReaped(t *testing.T) {
	requested := storedClaim(func(obj client.Object) { kube.SetAnnotation(obj, ipam.RequestedByAnnotation, "none") })
	s := newScene(t, nil, requested, storedAddress())

	s.reconcile()
	s.expectHeld()
	s.now = func() time.Time { return time.Now().Add(2 * grace) }
	s.reconcile()
	s.reconcile()

	if s.has(&capiipamv1.IPAddressClaim{}) {
		t.Error("the claim is there still")
	}
}

// clusterctl makes it before its pool, as it may be, and before its address.
func TestClaimThatCoolsDownWaitsForItsPoolToBeMoved(t *testing.T) {
	moved := storedClaim(func(obj client.Object) {
		obj.(*capiipamv1.IPAddressClaim).Status.AddressRef.Name = ""
		ipam.CoolClaim(obj, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: key}, time.Now().Add(-time.Minute))
	})
	s := newScene(t, nil, moved)

	if again := s.reconcile().RequeueAfter; again == 0 || again > time.Minute {
		t.Errorf("it is looked at again after %s", again)
	}
	if !s.has(&capiipamv1.IPAddressClaim{}) {
		t.Error("the claim is gone")
	}

	s.now = func() time.Time { return time.Now().Add(allocator.PoolPatience) }
	s.reconcile()
	if s.has(&capiipamv1.IPAddressClaim{}) {
		t.Error("the claim is there still, although no pool has come")
	}
}
