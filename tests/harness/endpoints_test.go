package harness_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
	"capv-static-ip.dev/tests/harness"
)

func TestInvariantsOfEndpoints(t *testing.T) {
	t.Parallel()
	for _, f := range harness.Fixtures {
		f, a := of{f}, f.IP(88)
		claim := f.Claim(ns, "prod", f.PoolName)
		claim.SetUID("claim-prod")
		ipam.Mark(claim, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: types.NamespacedName{Namespace: ns, Name: "prod"}})
		ipam.Use(claim, ipam.Stamp{Time: time.Now().Add(-time.Hour), Request: "request"})
		kept := answer(claim, a, func(object client.Object) { ipam.ProtectFor(object, ipam.Holder{Kind: ipam.OfCluster, Name: "prod"}) })
		bound := f.bound("cp-0", a)
		text, err := machine.EndpointBindings("prod", ipam.Binding{
			Pool: f.Reference(f.PoolName), Claim: "prod", Address: bindingOf(t, bound).Address,
		}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		infrastructure := harness.VSphereCluster(ns, "prod", harness.WithEndpoint(a, 6443), harness.WithAnnotation(ipam.BindingsAnnotation, text))
		cluster := harness.Cluster(ns, "prod", harness.WithEndpoint(a, 6443), harness.WithAnnotation(harness.EndpointAnnotation, "true"))
		for name, test := range map[string]state{
			"an endpoint":                         {objects: []client.Object{infrastructure, cluster, claim, kept}},
			"one whose claim is gone":             {objects: []client.Object{infrastructure, kept}},
			"one whose VSphereCluster is gone":    {objects: []client.Object{cluster, claim, kept}},
			"one that is free, of both":           {objects: []client.Object{infrastructure, cluster}, broken: "I10"},
			"one that is free, of a Cluster":      {objects: []client.Object{cluster}, broken: "I10"},
			"one that is not protected":           {objects: []client.Object{infrastructure, claim, answer(claim, a)}, broken: "I10"},
			"one that a machine was given":        {objects: []client.Object{infrastructure, claim, kept, bound}, broken: "I1"},
			"a claim for no VSphereCluster":       {objects: []client.Object{claim}, broken: "I3"},
			"an address protected for none":       {objects: []client.Object{kept}, broken: "I3"},
			"a Cluster's own endpoint, of a pool": {objects: []client.Object{f.Pool(ns), harness.Cluster(ns, "own", harness.WithEndpoint(a, 6443))}},
		} {
			t.Run(f.Name+", "+name, func(t *testing.T) {
				t.Parallel()
				test.expect(t)
			})
		}
	}
}

// bindingOf is the only binding of an object.
func bindingOf(t *testing.T, object client.Object) ipam.Binding {
	t.Helper()
	bindings, err := ipam.ParseBindings(object.GetAnnotations()[ipam.BindingsAnnotation])
	if err != nil {
		t.Fatal(err)
	}
	return bindings.Bindings[0]
}
