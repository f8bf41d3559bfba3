package nameless

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/kube"
)

// scene has an address that its provider has deleted, with our finalizer and without our marks.
type scene struct {
	address *capiipamv1.IPAddress
	more    []client.Object
	frozen  string
}

func newScene() *scene {
	now := metav1.Now()
	address := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "prod", DeletionTimestamp: &now, Finalizers: []string{ipam.InUseFinalizer}, Annotations: map[string]string{}, Labels: map[string]string{},
	}}
	address.Spec.Address, address.Spec.ClaimRef.Name = "10.0.0.1", "prod"
	address.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool", Name: "pool"}
	return &scene{address: address}
}

// reconcile looks at the address, and tells whether it is there afterwards, and when it is looked
// at again.
func (s *scene) reconcile(t *testing.T) (exists bool, again time.Duration) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(s.more, s.address)...)
	for _, user := range capi.Users() {
		builder = builder.WithIndex(user, "capv-static-ip.dev/ip", func(obj client.Object) []string {
			var ips []string
			for _, place := range obj.(capi.User).Addresses() {
				ips = append(ips, place.IP.String())
			}
			return ips
		})
	}
	c := builder.Build()
	r := &reconciler{provider: contract.Provider{}, client: c, live: c, freezer: allocator.Freezer{Flag: s.frozen}}
	result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(s.address)})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Get(t.Context(), client.ObjectKeyFromObject(s.address), &capiipamv1.IPAddress{})
	if !kube.IsAbsent(err) && err != nil {
		t.Fatal(err)
	}
	return err == nil, result.RequeueAfter
}

func TestAddressThatNamesNobodyIsLetGo(t *testing.T) {
	if exists, again := newScene().reconcile(t); exists || again != 0 {
		t.Errorf("it exists: %t, and is looked at again after %s", exists, again)
	}
}

func TestAddressStaysWhileItMayBeSomebodys(t *testing.T) {
	claim := func(s *scene, change func(*capiipamv1.IPAddressClaim)) {
		c := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
		change(c)
		s.more = append(s.more, c)
	}
	machine := func(namespace string) *capi.VSphereMachine {
		m := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "m"}}
		m.Spec.Network.Devices = []capi.Device{{NetworkName: "lan", IPAddrs: []string{"10.0.0.1/24"}}}
		return m
	}
	for name, test := range map[string]struct {
		change func(*scene)
		// stays says that it does, and again when it is looked at again.
		stays bool
		again time.Duration
	}{
		"it is not being deleted":       {func(s *scene) { s.address.DeletionTimestamp = nil }, true, 0},
		"it names a VSphereCluster":     {func(s *scene) { kube.SetAnnotation(s.address, ipam.ClusterNameAnnotation, "prod") }, true, 0},
		"it names a machine":            {func(s *scene) { kube.SetAnnotation(s.address, ipam.MachineNameAnnotation, "m") }, true, 0},
		"it has the label of its claim": {func(s *scene) { s.address.Labels[ipam.MachineLabel] = "m" }, true, 0},
		"it cools down":                 {func(s *scene) { kube.SetAnnotation(s.address, ipam.ReleasedAtAnnotation, "2026-01-01T00:00:00Z") }, true, 0},
		"clusterctl is moving it":       {func(s *scene) { kube.SetAnnotation(s.address, clusterctlv1.DeleteForMoveAnnotation, "") }, true, 0},
		"a machine has it":              {func(s *scene) { s.more = append(s.more, machine("ns")) }, true, useCheck},
		"its claim is there":            {func(s *scene) { claim(s, func(*capiipamv1.IPAddressClaim) {}) }, true, useCheck},
		"all is frozen":                 {func(s *scene) { s.frozen = "restoring" }, true, allocator.FrozenCheck},
		"not if a claim is going": {func(s *scene) {
			claim(s, func(c *capiipamv1.IPAddressClaim) {
				c.DeletionTimestamp, c.Finalizers = s.address.DeletionTimestamp, []string{"provider/x"}
			})
		}, false, 0},
		"not if a stranger elsewhere has": {func(s *scene) { s.more = append(s.more, machine("other")) }, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.change(s)
			if exists, again := s.reconcile(t); exists != test.stays || again != test.again {
				t.Errorf("it exists: %t, and is looked at again after %s; want %t and %s", exists, again, test.stays, test.again)
			}
		})
	}
}
