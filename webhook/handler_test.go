package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/machine"
	"capv-static-ip.dev/machine/demand"
)

// brokenAllocator stands for faults that a real API server cannot be made to
// have. It binds the address 10.0.0.1 unless err is set.
type brokenAllocator struct {
	err       error
	takenBack int
	// underWay has it confirm all bindings that a create brings along.
	underWay bool
}

// noRefusals writes nothing.
type noRefusals struct{}

func (noRefusals) Record(string, metav1.OwnerReference, *ipam.Refusal) {}

func (a *brokenAllocator) Check(context.Context, allocator.Request) ([]string, error) {
	return nil, a.err
}

// Meant has any name mean a pool of metal3.
func (a *brokenAllocator) Meant(_ context.Context, _ ipam.Machine, ask ipam.Ask) ([]ipam.PoolReference, error) {
	return []ipam.PoolReference{metal3.PoolNamed(ask.Choices[0].Pool.Name)}, nil
}

func (a *brokenAllocator) Claim(_ context.Context, req allocator.Request) (*allocator.Attempt, error) {
	attempt := &allocator.Attempt{}
	if a.err != nil {
		return attempt, a.err
	}
	for _, ask := range req.Asks {
		attempt.Bindings = append(attempt.Bindings, ipam.Binding{
			Device: ask.Device, Pool: metal3.PoolNamed(ask.Choices[0].Pool.Name), Claim: ipam.ClaimName(req.Machine.Name, ask.Slot()),
			Address: netip.MustParsePrefix("10.0.0.1/24"), Gateway: netip.MustParseAddr("10.0.0.254"),
			Nameservers: []string{"10.0.0.53"}, SearchDomains: []string{"example"},
		})
	}
	return attempt, nil
}

func (a *brokenAllocator) TakeBack(context.Context, *allocator.Attempt) error {
	a.takenBack++
	return a.err
}

func (a *brokenAllocator) CheckNotCopied(context.Context, ipam.Machine, ipam.Bindings) error {
	return a.err
}

func (a *brokenAllocator) IsUnderWay(context.Context, ipam.Machine, []ipam.Binding) (bool, error) {
	return false, a.err
}

func (a *brokenAllocator) Kept(context.Context, ipam.Machine, netip.Addr) (*ipam.Binding, error) {
	return nil, nil
}

func (a *brokenAllocator) Held(context.Context, ipam.Machine, types.UID) ([]ipam.Binding, error) {
	return nil, a.err
}

func (a *brokenAllocator) InUse(context.Context, ipam.Machine, string, netip.Addr) ([]allocator.User, error) {
	return nil, a.err
}

// noZones is a cache without failure domains.
type noZones struct{ client.Reader }

func (noZones) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

func handler(a Allocator) *Handler {
	return &Handler{
		Allocator: a, Demand: &demand.Reader{Cache: noZones{}}, Events: events.NewFakeRecorder(10), Refusals: noRefusals{}, Scheme: runtime.NewScheme(),
	}
}

func createOf(raw string) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: "uid", Operation: admissionv1.Create, Namespace: "ns", Name: "cp", Object: runtime.RawExtension{Raw: []byte(raw)},
	}}
}

func updateOf(before, after string) admission.Request {
	req := createOf(after)
	req.Operation = admissionv1.Update
	req.OldObject = runtime.RawExtension{Raw: []byte(before)}
	return req
}

// wanting is a machine that names a pool by its own label.
const wanting = `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"}},"spec":{"network":{"devices":[{"networkName":"a"}]}}}`

func wantRefusal(t *testing.T, err error, reason ipam.Reason, text string) {
	t.Helper()
	refusal, ok := ipam.AsRefusal(err)
	if !ok || refusal.Reason != reason || !strings.Contains(refusal.Message, text) {
		t.Errorf("got %v, want a refusal %s with %q", err, reason, text)
	}
}

func TestMalformedRequestsAreBadRequests(t *testing.T) {
	unknown := createOf(wanting)
	unknown.Operation = ""
	deletion := createOf(wanting)
	deletion.Operation = admissionv1.Delete
	for name, req := range map[string]admission.Request{
		"empty operation":       unknown,
		"DELETE":                deletion,
		"no object":             createOf(""),
		"not JSON":              createOf("{"),
		"a list":                createOf("[]"),
		"devices are no list":   createOf(`{"spec":{"network":{"devices":{}}}}`),
		"a device is a number":  createOf(`{"spec":{"network":{"devices":[1]}}}`),
		"update without old":    updateOf("", wanting),
		"update without object": updateOf(wanting, ""),
	} {
		t.Run(name, func(t *testing.T) {
			response := handler(&brokenAllocator{}).Handle(t.Context(), req)
			if response.Allowed || response.Result.Code != http.StatusBadRequest || response.Result.Message == "" {
				t.Errorf("got %+v", response)
			}
		})
	}
}

func TestMachineWithALifeIsLeftAsItIs(t *testing.T) {
	for name, raw := range map[string]string{
		"provider ID":   `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"}},"spec":{"providerID":"vsphere://x","network":{"devices":[{}]}}}`,
		"owner Machine": `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"},"ownerReferences":[{"apiVersion":"cluster.x-k8s.io/v1beta2","kind":"Machine","name":"cp"}]},"spec":{"network":{"devices":[{}]}}}`,
		"bindings":      `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"},"annotations":{"capv-static-ip.dev/bindings":"{}"}},"spec":{"network":{"devices":[{}]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			response := handler(&brokenAllocator{}).Handle(t.Context(), createOf(raw))
			if !response.Allowed || len(response.Patches) > 0 {
				t.Errorf("got %+v", response)
			}
		})
	}
}

func TestMachineInANamespaceThatIsNotServedIsLeftToOthers(t *testing.T) {
	h := handler(&brokenAllocator{err: errors.New("claimed")})
	h.Namespace = "served"
	response := h.Handle(t.Context(), createOf(wanting))
	if !response.Allowed || len(response.Patches) > 0 || len(response.Warnings) != 1 {
		t.Errorf("got %+v", response)
	}
}

func TestUnreadableBindingsAreRefusedWithTheRemedy(t *testing.T) {
	raw := `{"metadata":{"name":"cp","annotations":{"capv-static-ip.dev/bindings":"nonsense"}}}`
	v := handler(&brokenAllocator{}).create(t.Context(), createOf(raw))
	wantRefusal(t, v.err, ipam.BindingsInvalid, "remove it")
}

func TestNoTimeToBindIsRefusedWithoutClaiming(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, Path+"?timeout=2s", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	a := &brokenAllocator{err: errors.New("claimed")}
	v := handler(a).create(withTimeout(t.Context(), r), createOf(wanting))
	wantRefusal(t, v.err, ipam.TimeoutTooShort, "less than 3s")
}

func TestFailedClaimIsTakenBackAndDeniedWithAStableText(t *testing.T) {
	a := &brokenAllocator{err: errors.New("request to 10.1.2.3 for cp-x7k2p failed at 12:00")}
	response := handler(a).Handle(t.Context(), createOf(wanting))
	if response.Allowed || response.Result.Code != http.StatusInternalServerError ||
		response.Result.Message != "addresses could not be allocated (unknown error): see the log of capv-static-ip" {
		t.Errorf("got %+v", response.Result)
	}
	if a.takenBack != 1 {
		t.Errorf("taken back %d times, want once", a.takenBack)
	}
}

// The one that is there may be gone before the new one is stored.
func TestMachineOfANameThatIsTakenIsDeniedAsTheAPIServerDoes(t *testing.T) {
	a := &brokenAllocator{err: allocator.ErrMachineExists}
	response := handler(a).Handle(t.Context(), createOf(wanting))
	if response.Allowed || response.Result.Code != http.StatusConflict || response.Result.Reason != metav1.StatusReasonAlreadyExists || a.takenBack > 0 {
		t.Errorf("got %+v, taken back %d times", response, a.takenBack)
	}
}

// FuzzAdmission sends any object as CREATE and as UPDATE. Whatever it holds, the
// answer is a verdict, and a patch touches nothing but what we inject.
func FuzzAdmission(f *testing.F) {
	for _, seed := range []string{
		wanting,
		`{"metadata":{"name":"cp","annotations":{"capv-static-ip.dev/bindings":"{\"machine\":\"cp\",\"bindings\":[{\"device\":{\"index\":0},\"address\":\"10.0.0.1/24\"}]}"}},"spec":{"network":{"devices":[{"ipAddrs":["10.0.0.1/24"]}]}}}`,
		`{"metadata":{"generateName":"cp-","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"}},"spec":{"network":{"devices":[{"dhcp4":null},{"dhcp4":true},{"skipIPAllocation":true}]}}}`,
		`{"metadata":null,"spec":null}`, `{"spec":{"network":{"devices":[null]}}}`, `[]`, `null`, `{"metadata":{"finalizers":[null]}}`, "",
	} {
		f.Add(seed, wanting)
		f.Add(wanting, seed)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for i, req := range []admission.Request{createOf(after), createOf(after), updateOf(before, after)} {
			response := handler(&brokenAllocator{underWay: i == 1}).Handle(t.Context(), req)
			if response.Allowed == (response.Result != nil && response.Result.Code >= http.StatusBadRequest) {
				t.Fatalf("neither allowed nor denied: %+v", response)
			}
			for _, op := range response.Patches {
				if !isInjected(op.Path) {
					t.Errorf("%s of %s in the patch of %s", op.Operation, op.Path, after)
				}
			}
			if _, err := json.Marshal(response.Patches); err != nil {
				t.Errorf("patch of %s: %v", after, err)
			}
		}
	})
}

// isInjected tells whether section "what we inject" names this path.
func isInjected(path string) bool {
	if path == "/metadata/annotations" || path == "/metadata/finalizers" ||
		strings.HasPrefix(path, "/metadata/annotations/capv-static-ip.dev~1") || strings.HasPrefix(path, "/metadata/finalizers/") {
		return true
	}
	rest, ok := strings.CutPrefix(path, "/spec/network/devices/")
	if !ok {
		return false
	}
	_, field, _ := strings.Cut(rest, "/")
	field, _, _ = strings.Cut(field, "/")
	switch field {
	case "ipAddrs", "gateway4", "gateway6", "nameservers", "searchDomains":
		return true
	}
	return false
}

// Whoever may create machines could have events made for any number of names.
func TestOwnersThatAreToldAreBounded(t *testing.T) {
	recorder := events.NewFakeRecorder(100)
	h := handler(&brokenAllocator{})
	h.Events = recorder
	req := createOf(`{"metadata":{"name":"cp","ownerReferences":[` +
		`{"apiVersion":"v1","kind":"A","name":"a","uid":"1"},{"apiVersion":"v1","kind":"B","name":"b","uid":"2"},` +
		`{"apiVersion":"v1","kind":"C","name":"c","uid":"3"},{"apiVersion":"v1","kind":"D","name":"d","uid":"4"}]}}`)
	req.Kind.Kind = "VSphereMachine"
	h.tell(req, &ipam.Refusal{Reason: ipam.PoolNotFound, Message: "no"})
	if told := len(recorder.Events); told != machine.MaxOwners {
		t.Errorf("made %d events, want those of %d owners", told, machine.MaxOwners)
	}
}

func TestRefusalIsToldWhereSomebodyLooks(t *testing.T) {
	const owned = `{"metadata":{"name":"cp","ownerReferences":[{"apiVersion":"v1","kind":"A","name":"a","uid":"1"}]}}`
	for name, test := range map[string]struct {
		req  admission.Request
		kind string
		want []string
	}{
		"on the owner of a machine":              {createOf(owned), "VSphereMachine", []string{"A"}},
		"on a machine that has none":             {createOf(`{"metadata":{"name":"cp"}}`), "VSphereMachine", []string{"VSphereMachine"}},
		"on a machine that exists":               {updateOf(owned, owned), "VSphereMachine", []string{"A", "VSphereMachine"}},
		"on what is made again by the same name": {createOf(owned), "VSphereCluster", []string{"A", "VSphereCluster"}},
	} {
		t.Run(name, func(t *testing.T) {
			told := &toldKinds{}
			h := handler(&brokenAllocator{})
			h.Events = told
			test.req.Kind.Kind = test.kind
			h.tell(test.req, &ipam.Refusal{Reason: ipam.PoolNotFound, Message: "no"})
			if !slices.Equal(told.kinds, test.want) {
				t.Errorf("told %q, want %q", told.kinds, test.want)
			}
		})
	}
}

// toldKinds keeps the kinds that events are about.
type toldKinds struct{ kinds []string }

//nolint:revive // events.EventRecorder gives it so many arguments
func (k *toldKinds) Eventf(regarding, _ runtime.Object, _, _, _, _ string, _ ...any) {
	k.kinds = append(k.kinds, regarding.(*corev1.ObjectReference).Kind)
}
