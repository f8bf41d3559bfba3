package late

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/machine"
)

// asked is what machines ask for here: nothing, or one address.
type asked struct {
	nothing, paused bool
	takesDHCPAway   bool
	err             error
	// withoutMachine is what asking fails with before a Machine owns the machine.
	withoutMachine error
	count          int
	// meanwhile is done while a machine is asked.
	meanwhile func()
}

func (a *asked) Asks(_ context.Context, m *machine.Machine) ([]ipam.Ask, []string, error) {
	a.count++
	if a.meanwhile != nil {
		a.meanwhile()
	}
	if a.err != nil {
		return nil, nil, a.err
	}
	if len(m.OwnerReferences) == 0 && a.withoutMachine != nil {
		return nil, nil, a.withoutMachine
	}
	if a.nothing {
		return nil, nil, nil
	}
	return []ipam.Ask{{Device: ipam.Device{Index: 0, NetworkName: "a"}, AskedBy: "the test"}}, nil, nil
}

func (a *asked) IsPaused(context.Context, *machine.Machine) (bool, error) { return a.paused, nil }

func (a *asked) TakesDHCPAway(context.Context) (bool, error) { return a.takesDHCPAway, nil }

// engine binds 10.0.0.1, unless it has an error.
type engine struct {
	err      error
	held     []ipam.Binding
	requests []allocator.Request
	givenUp  int
}

func (e *engine) Claim(_ context.Context, req allocator.Request) (*allocator.Attempt, error) {
	e.requests = append(e.requests, req)
	if e.err != nil {
		return &allocator.Attempt{}, e.err
	}
	return &allocator.Attempt{Bindings: []ipam.Binding{{
		Device: req.Asks[0].Device, Pool: metal3.PoolNamed("pool"), Claim: "cp-0-0", Address: netip.MustParsePrefix("10.0.0.1/24"),
	}}}, nil
}

func (e *engine) GiveUp(context.Context, ipam.Machine, types.UID) error {
	e.givenUp++
	return e.err
}

func (e *engine) Kept(context.Context, ipam.Machine, netip.Addr) (*ipam.Binding, error) {
	return nil, nil
}

func (e *engine) Held(context.Context, ipam.Machine, types.UID) ([]ipam.Binding, error) {
	return e.held, nil
}

// play is a Reconciler over these objects.
type play struct {
	*Reconciler
	asked  *asked
	engine *engine
	told   *events.FakeRecorder
	// patches are those of machines.
	patches []string
	// refuse is what the API server says to a patch.
	refuse error
	reads  int
}

func newPlay(t *testing.T, objects ...client.Object) *play {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := capi.AddToScheme(scheme, nil); err != nil {
		t.Fatal(err)
	}
	p := &play{asked: &asked{}, engine: &engine{}, told: events.NewFakeRecorder(20)}
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithIndex(&capi.VSphereVM{}, byOwner, indexByOwner).Build(), interceptor.Funcs{
		Patch: func(_ context.Context, _ client.WithWatch, obj client.Object, patch client.Patch, _ ...client.PatchOption) error {
			data, err := patch.Data(obj)
			p.patches = append(p.patches, string(data))
			return errors.Join(err, p.refuse)
		},
	})
	live := interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			p.reads++
			return c.Get(ctx, key, obj, opts...)
		},
	})
	p.Reconciler = &Reconciler{
		allocator: p.engine, demand: p.asked, client: c, live: live, events: p.told, memory: newMemory(machinesWaiting), now: func() time.Time { return start },
	}
	return p
}

func (p *play) reconcile(t *testing.T) reconcile.Result {
	t.Helper()
	result, err := p.Reconcile(t.Context(), reconcile.Request{NamespacedName: key("ns", "cp-0")})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// said is the next event, empty if there is none.
func (p *play) said() string {
	select {
	case told := <-p.told.Events:
		return told
	default:
		return ""
	}
}

func TestEverythingIsWrittenInOnePatchAgainstTheVersionRead(t *testing.T) {
	p := newPlay(t, machineDue())

	p.reconcile(t)

	if len(p.patches) != 1 {
		t.Fatalf("there are the patches %v, want one", p.patches)
	}
	var operations []struct{ Op, Path string }
	if err := json.Unmarshal([]byte(p.patches[0]), &operations); err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, o := range operations {
		paths[o.Path] = true
	}
	for _, want := range []string{"/metadata/resourceVersion", "/spec/network/devices/0/ipAddrs"} {
		if !paths[want] {
			t.Errorf("the patch %s does not write %s", p.patches[0], want)
		}
	}
	for _, want := range []string{ipam.ReleaseFinalizer, ipam.BindingsAnnotation} {
		if !strings.Contains(p.patches[0], want) {
			t.Errorf("the patch %s does not write %s", p.patches[0], want)
		}
	}
	if got := p.engine.requests[0]; got.UID != "uid" || got.Owner.UID != "" || got.Asks[0].Host != "cp-0" {
		t.Errorf("claimed by %+v", got)
	}
}

func TestMachineOnDHCPIsServedOnlyWhereAFailureDomainTakesThatAway(t *testing.T) {
	yes := true
	for _, takes := range []bool{true, false} {
		p := newPlay(t, machineDue(func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].DHCP4 = &yes }))
		p.asked.takesDHCPAway = takes
		p.reconcile(t)
		if served := len(p.patches) == 1; served != takes || !takes && p.reads > 0 {
			t.Errorf("DHCP is taken away: %t, served: %t, with %d reads", takes, served, p.reads)
		}
	}
}

func TestCauseOfALateMachineIsCounted(t *testing.T) {
	yes := true
	onDHCP := func(m *capi.VSphereMachine) { m.Spec.Network.Devices[0].DHCP4 = &yes }
	ofSet := func(m *capi.VSphereMachine) { m.Labels = map[string]string{clusterv1.MachineSetNameLabel: "md-0"} }
	generated := func(m *capi.VSphereMachine) { m.GenerateName = "cp-" }
	for name, test := range map[string]struct {
		change    func(*capi.VSphereMachine)
		undecided bool
		want      string
	}{
		"nobody asked":                            {func(*capi.VSphereMachine) {}, false, "not_asked"},
		"generateName":                            {generated, false, "generate_name"},
		"a failure domain that was not known":     {func(*capi.VSphereMachine) {}, true, "failure_domain"},
		"a failure domain that takes DHCP away":   {onDHCP, false, "failure_domain"},
		"a MachineSet, whose is known from birth": {ofSet, true, "not_asked"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t, machineDue(test.change))
			p.asked.takesDHCPAway = true
			if test.undecided {
				p.asked.withoutMachine = ipam.ErrUndecided
			}
			before := testutil.ToFloat64(machinesLate.WithLabelValues(test.want))
			p.reconcile(t)
			if got := testutil.ToFloat64(machinesLate.WithLabelValues(test.want)) - before; got != 1 {
				t.Errorf("%s was counted %v times, want once", test.want, got)
			}
		})
	}
}

// Its Machine is gone, as a rule: that it is unknown is no news for anybody.
func TestMachineWhoseFailureDomainIsNotKnownWaitsWithoutAWord(t *testing.T) {
	p := newPlay(t, machineDue())
	p.asked.err = ipam.ErrUndecided
	if got := p.reconcile(t); got.RequeueAfter != firstWait || p.said() != "" {
		t.Errorf("got %+v, want another try after %s without an event", got, firstWait)
	}
}

func TestConflictHasTheMachineReadAgain(t *testing.T) {
	p := newPlay(t, machineDue())
	p.refuse = apierrors.NewConflict(schema.GroupResource{}, "cp-0", nil)
	if got := p.reconcile(t); got.RequeueAfter != conflictRetry {
		t.Errorf("got %+v, want another try at once", got)
	}
}

// Nobody who asks for nothing is looked at twice.
func TestMachineThatAsksForNothingIsLookedAtOnce(t *testing.T) {
	m := machineDue()
	p := newPlay(t, m)
	p.asked.nothing = true
	p.reconcile(t)
	reads := p.reads
	for range 3 {
		p.reconcile(t)
	}
	if p.asked.count != 1 || p.reads != reads {
		t.Errorf("it was asked %d times, with %d more reads", p.asked.count, p.reads-reads)
	}
	p.asked.nothing = false
	p.memory.askAnew("uid")
	p.reconcile(t)
	if len(p.patches) != 1 {
		t.Error("it is not served when it is asked anew")
	}
}

// Its template changes while the machine is asked: the answer is by what that said before.
func TestMachineThatIsToBeAskedAnewMeanwhileIsAskedAgain(t *testing.T) {
	p := newPlay(t, machineDue())
	p.asked.nothing = true
	p.asked.meanwhile = func() { p.memory.askAnew("uid") }
	p.reconcile(t)
	p.asked.nothing, p.asked.meanwhile = false, nil

	p.reconcile(t)

	if len(p.patches) != 1 {
		t.Errorf("it was asked %d times, and there are %d patches, want that it is served", p.asked.count, len(p.patches))
	}
}

func TestFailureDomainWhoseSpecChangesHasMachinesAskedAnew(t *testing.T) {
	before := &capi.VSphereFailureDomain{ObjectMeta: metav1.ObjectMeta{Name: "fd", Generation: 1}}
	same, changed, annotated := before.DeepCopy(), before.DeepCopy(), before.DeepCopy()
	same.ResourceVersion, changed.Generation = "2", 2
	annotated.Annotations = map[string]string{ipam.PoolsAnnotationPrefix + "0": "pool"}
	for after, want := range map[*capi.VSphereFailureDomain]bool{same: false, changed: true, annotated: true} {
		if got := changesZone().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != want {
			t.Errorf("the change to %+v is passed: %t, want %t", after.ObjectMeta, got, want)
		}
	}
}

func TestNothingIsReadForAMachineThatIsNotDue(t *testing.T) {
	p := newPlay(t, machineDue(func(m *capi.VSphereMachine) { m.Spec.ProviderID = "vsphere://x" }))
	p.reconcile(t)
	if p.reads+p.asked.count > 0 {
		t.Errorf("there were %d reads and %d questions", p.reads, p.asked.count)
	}
}

func TestMachineOfAPausedClusterIsNotRead(t *testing.T) {
	p := newPlay(t, machineDue())
	p.asked.paused = true
	p.reconcile(t)
	if p.reads+len(p.engine.requests) > 0 {
		t.Errorf("there were %d reads and %d requests", p.reads, len(p.engine.requests))
	}
	p.asked.paused = false
	p.reconcile(t)
	if len(p.patches) != 1 || p.memory.wasPaused(key("ns", "cp-0")) {
		t.Errorf("there are %d patches, want one, and the pause forgotten", len(p.patches))
	}
}

func TestMachineIsLeftThatHoldsAddresses(t *testing.T) {
	device := capi.Device{NetworkName: "b", IPAddrs: []string{"10.0.0.7/24"}}
	m := machineDue(func(m *capi.VSphereMachine) { m.Spec.Network.Devices = append(m.Spec.Network.Devices, device) })
	p := newPlay(t, m)
	p.engine.held = []ipam.Binding{{Address: netip.MustParsePrefix("10.0.0.7/32")}}
	p.reconcile(t)
	if len(p.engine.requests) > 0 {
		t.Error("it is given more addresses")
	}
	p.engine.held[0].Address = netip.MustParsePrefix("10.0.0.8/32")
	p.memory.askAnew("uid")
	p.reconcile(t)
	if len(p.engine.requests) != 1 {
		t.Error("it is not given any for an address that is on none of its devices")
	}
}

// vmOf is a VM of the machine that is being made.
func vmOf(name string) *capi.VSphereVM {
	return &capi.VSphereVM{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "infrastructure.cluster.x-k8s.io/v1beta2", Kind: "VSphereMachine", Name: "cp-0", UID: "uid"}},
		},
		Status: capi.VSphereVMStatus{TaskRef: "task-1"},
	}
}

func TestVMThatTheCacheDoesNotHaveYetIsSeen(t *testing.T) {
	p := newPlay(t, machineDue(), vmOf("cp-0"))
	p.client = interceptor.NewClient(p.client.(client.WithWatch), interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil },
	})
	p.reconcile(t)
	if len(p.engine.requests) > 0 || !strings.Contains(p.said(), "TooLate") {
		t.Errorf("there were %d requests, want none, and an event", len(p.engine.requests))
	}
}

func TestMachineWithAVMIsToldThatItIsTooLate(t *testing.T) {
	p := newPlay(t, machineDue(), vmOf("another-name"))
	p.reconcile(t)
	p.reconcile(t)
	if len(p.engine.requests) > 0 || p.asked.count != 1 {
		t.Errorf("there were %d requests, and %d questions, want none and one", len(p.engine.requests), p.asked.count)
	}
	if told := p.said(); !strings.Contains(told, "TooLate its virtual machine exists without the address that the test asks for: replace the machine") {
		t.Errorf("it is told %q", told)
	}
}

func TestRefusalIsToldToTheMachineItsMachineAndItsOwner(t *testing.T) {
	owner := &metav1.PartialObjectMetadata{}
	owner.SetGroupVersionKind(capi.MachineKind.WithVersion("v1beta2"))
	owner.Namespace, owner.Name = "ns", "cp-0"
	owner.OwnerReferences = []metav1.OwnerReference{{APIVersion: "controlplane.cluster.x-k8s.io/v1beta2", Kind: "KubeadmControlPlane", Name: "cp", UID: "kcp"}}
	p := newPlay(t, machineDue(), owner)
	p.engine.err = ipam.WithShortages(ipam.Refuse(ipam.PoolExhausted, "it is full"), ipam.Shortage{Pool: metal3.PoolNamed("pool"), Needed: 1})

	if got := p.reconcile(t); got.RequeueAfter != firstWait {
		t.Errorf("got %+v, want another try after %s", got, firstWait)
	}

	if len(p.told.Events) != 3 {
		t.Errorf("there are %d events, want three", len(p.told.Events))
	}
	if waiting := p.memory.waitingFor(metal3.PoolNamed("pool"), "ns"); len(waiting) != 1 {
		t.Errorf("%v wait for the pool, want the machine", waiting)
	}
	p.engine.err = nil
	p.reconcile(t)
	if p.memory.isWaiting(key("ns", "cp-0")) {
		t.Error("it waits, although it was served")
	}
}

func TestMachineThatIsGoneMeanwhileIsNoError(t *testing.T) {
	p := newPlay(t, machineDue())
	p.engine.err = allocator.ErrMachineGone
	if got := p.reconcile(t); got != (reconcile.Result{}) || len(p.patches) > 0 || len(p.told.Events) > 0 {
		t.Errorf("got %+v, %d patches and %d events, want nothing", got, len(p.patches), len(p.told.Events))
	}
}

// It is one of its claims, as a rule, that somebody has deleted in between. Nothing else
// would bring the machine back here.
func TestMachineIsTriedAgainWhenSomethingElseIsGone(t *testing.T) {
	p := newPlay(t, machineDue())
	p.engine.err = fmt.Errorf("claiming an address: %w", apierrors.NewNotFound(schema.GroupResource{}, "cp-0-0"))

	_, err := p.Reconcile(t.Context(), reconcile.Request{NamespacedName: key("ns", "cp-0")})

	if err == nil {
		t.Error("got no error, want one, so that the machine is tried again")
	}

	p.engine.err, p.refuse = nil, apierrors.NewNotFound(schema.GroupResource{}, "cp-0")
	if got := p.reconcile(t); got != (reconcile.Result{}) {
		t.Errorf("got %+v of a machine that is gone itself, want nothing", got)
	}
}
