package lifecycle

import (
	"context"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// ownedMachine is a living machine, and the Machine that owns it, in a failure domain.
func ownedMachine(domain string) (*state, *unstructured.Unstructured) {
	owner := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	owner.SetAPIVersion("cluster.x-k8s.io/v1beta2")
	owner.SetKind("Machine")
	owner.SetNamespace("ns")
	owner.SetName("cp-0")
	owner.SetUID("machine-uid")
	if domain != "" {
		owner.Object["spec"] = map[string]any{"failureDomain": domain}
	}
	s := &state{namespace: "ns", machineState: living(), object: &capi.VSphereMachine{}}
	s.object.Namespace, s.object.Name, s.object.UID = "ns", "cp-0", s.uid
	s.object.OwnerReferences = []metav1.OwnerReference{{APIVersion: owner.GetAPIVersion(), Kind: "Machine", Name: "cp-0", UID: owner.GetUID()}}
	return s, owner
}

// wholeMachine is an API server with a Machine, of which the scheme knows the metadata
// alone.
type wholeMachine struct {
	client.Reader
	of *unstructured.Unstructured
}

func (w wholeMachine) Get(_ context.Context, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	w.of.DeepCopyInto(obj.(*unstructured.Unstructured))
	return nil
}

// given is a binding that was claimed for a machine in one of these failure domains.
func given(domains ...string) *holding {
	h := bound(ownedBy("uid"))
	ask := ipam.Ask{}
	for _, name := range domains {
		ask.Sites = append(ask.Sites, ipam.Site{FailureDomain: name})
	}
	ipam.NoteFailureDomains(h.claim, ask)
	return &h
}

func TestMachineInAnotherFailureDomainThanItWasServedForIsToldOnce(t *testing.T) {
	for name, test := range map[string]struct {
		is      string
		holding *holding
		change  func(*state)
		want    string
	}{
		"in the one it was served for":   {is: "a", holding: given("a")},
		"in one of those":                {is: "b", holding: given("a", "b")},
		"in none, as it was served":      {is: "", holding: given("")},
		"in another":                     {is: "c", holding: given("a", "b"), want: `is in failure domain "c", but claim "cp-0-0" was made for a machine in failure domain "a" or failure domain "b": replace`},
		"in one, served for none":        {is: "c", holding: given(""), want: `for a machine in no failure domain: replace`},
		"in none, served for one":        {is: "", holding: given("a"), want: `is in no failure domain, but`},
		"that has a VM":                  {is: "c", holding: given("a"), change: func(s *state) { s.object.Spec.ProviderID = "vsphere://x" }},
		"that is being deleted":          {is: "c", holding: given("a"), change: func(s *state) { s.deleting = true }},
		"without failure domains at all": {is: "c", holding: given()},
		"that no Machine owns yet":       {is: "c", holding: given("a"), change: func(s *state) { s.object.OwnerReferences = nil }},
		"whose Machine is another now":   {is: "c", holding: given("a"), change: func(s *state) { s.object.OwnerReferences[0].UID = "earlier" }},
	} {
		t.Run(name, func(t *testing.T) {
			s, owner := ownedMachine(test.is)
			if test.change != nil {
				test.change(s)
			}
			scheme := runtime.NewScheme()
			if err := capi.AddToScheme(scheme, nil); err != nil {
				t.Fatal(err)
			}
			recorder := events.NewFakeRecorder(10)
			r := &Reconciler{client: fake.NewClientBuilder().WithScheme(scheme).Build(), live: wholeMachine{of: owner}, events: recorder}

			r.checkDomain(t.Context(), s, test.holding)
			r.checkDomain(t.Context(), s, test.holding)

			var told []string
			for len(recorder.Events) > 0 {
				told = append(told, <-recorder.Events)
			}
			is := func(text string) bool {
				return strings.Contains(text, test.want) && strings.Contains(text, "WrongFailureDomain")
			}
			if test.want == "" && len(told) > 0 || test.want != "" && (len(told) != 1 || !slices.ContainsFunc(told, is)) {
				t.Errorf("told %q, want %q", told, test.want)
			}
		})
	}
}
