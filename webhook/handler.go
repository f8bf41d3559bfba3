package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// Path is where the API server sends VSphereMachines.
const Path = "/mutate-infrastructure-cluster-x-k8s-io-vspheremachine"

// takeBackTimeout bounds the clean-up after a denied request, which may go on when
// the answer is given. What it misses is reaped after the grace period.
const takeBackTimeout = 15 * time.Second

// Allocator is what admission needs of IPAM.
type Allocator interface {
	// Check fails with a Refusal if the request cannot be served now. It says what would
	// be claimed, and warns of pools that are asked for and cannot be used.
	Check(ctx context.Context, req allocator.Request) (warnings []string, err error)
	// Meant are the pools from which the address of an ask may be.
	Meant(ctx context.Context, machine ipam.Machine, ask ipam.Ask) ([]ipam.PoolReference, error)
	// Claim binds an address for every ask, or fails with a Refusal or
	// allocator.ErrMachineExists.
	Claim(ctx context.Context, req allocator.Request) (*allocator.Attempt, error)
	// TakeBack undoes what an attempt left that came to nothing.
	TakeBack(ctx context.Context, attempt *allocator.Attempt) error
	// CheckNotCopied fails with a Refusal if another living machine holds one of
	// the bindings.
	CheckNotCopied(ctx context.Context, machine ipam.Machine, bindings ipam.Bindings) error
	// IsUnderWay tells whether the bindings are those of a create of this machine
	// that is not done yet.
	IsUnderWay(ctx context.Context, machine ipam.Machine, bindings []ipam.Binding) (bool, error)
	// InUse finds what else has an address on a network.
	InUse(ctx context.Context, machine ipam.Machine, network string, ip netip.Addr) ([]allocator.User, error)
	// Held are the bindings of a living machine, read from other places than its
	// annotation. Of their addresses only the IP is known.
	Held(ctx context.Context, machine ipam.Machine, uid types.UID) ([]ipam.Binding, error)
	// Kept is the binding of an endpoint that no claim can get, nil if one can, or if there is
	// no endpoint.
	Kept(ctx context.Context, cluster ipam.Machine, ip netip.Addr) (*ipam.Binding, error)
}

// Refusals writes on the owners of refused machines what they wait for. It does
// not keep the answer waiting.
type Refusals interface {
	Record(namespace string, owner metav1.OwnerReference, refusal *ipam.Refusal)
}

// Demand is what machines ask for.
type Demand interface {
	// Asks lists what the eligible devices ask for, and warns of what is asked for in
	// vain. It fails with a Refusal if something is asked for that cannot be given.
	Asks(ctx context.Context, m *machine.Machine) (asks []ipam.Ask, warnings []string, err error)
	// IsPaused tells whether the machine's Cluster is paused.
	IsPaused(ctx context.Context, m *machine.Machine) (bool, error)
}

// Handler admits VSphereMachines.
type Handler struct {
	Allocator Allocator
	Demand    Demand
	// Events tells the users what was refused, Refusals the owners of machines
	// what to wait for.
	Events   events.EventRecorder
	Refusals Refusals
	// Scheme knows the versions in which kinds are read.
	Scheme *runtime.Scheme
	// Namespace is the only one served; all are if it is empty.
	Namespace string

	// takingBack are the clean-ups that go on after their answer.
	takingBack sync.WaitGroup
}

// New makes of the handler what a webhook server serves.
func New(h *Handler) http.Handler {
	return bounded(&admission.Webhook{Handler: h, LogConstructor: logger})
}

// logger names the machine in the way of CAPI's providers.
func logger(base logr.Logger, req *admission.Request) logr.Logger {
	if req == nil {
		return base
	}
	return base.WithValues("VSphereMachine", klog.KRef(req.Namespace, req.Name), "requestUID", req.UID)
}

var _ admission.Handler = &Handler{}

// verdict is what is decided about a request: an error denies it.
type verdict struct {
	patch    []jsonpatch.Operation
	warnings []string
	// unserved are the warnings that CAPI's users have to see, too, who do not
	// see what the API server tells CAPI.
	unserved []string
	err      error
}

func allow(warnings ...string) verdict { return verdict{warnings: warnings} }

func deny(err error) verdict { return verdict{err: err} }

// badRequest marks an error that is the sender's and not worth a retry.
type badRequest struct{ error }

// Handle implements admission.Handler.
func (h *Handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	start := time.Now()
	v := h.decide(ctx, req)
	h.tellUnserved(req, v.unserved)
	response := h.respond(ctx, req, v)
	observe(req.Operation, v, time.Since(start))
	return response
}

func (h *Handler) decide(ctx context.Context, req admission.Request) verdict {
	switch req.Operation {
	case admissionv1.Create:
		return h.create(ctx, req)
	case admissionv1.Update:
		return h.update(ctx, req)
	default:
		return deny(badRequest{fmt.Errorf("operation %q is not one of CREATE and UPDATE", req.Operation)})
	}
}

func (h *Handler) create(ctx context.Context, req admission.Request) verdict {
	m, err := machine.Decode(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	m.Namespace = req.Namespace
	if m.ExistedBefore() {
		return h.readmit(ctx, req, m)
	}
	return h.serve(ctx, req, m)
}

// serve gives addresses to the devices that wait for one.
func (h *Handler) serve(ctx context.Context, req admission.Request, m *machine.Machine) verdict {
	if h.Namespace != "" && h.Namespace != m.Namespace {
		return allow(fmt.Sprintf("this installation of capv-static-ip serves namespace %q only: no address is claimed", h.Namespace))
	}
	told, err := h.judgeShared(ctx, req, m)
	if err != nil {
		return deny(err)
	}
	asks, unserved, err := h.Demand.Asks(ctx, m)
	if errors.Is(err, ipam.ErrUndecided) || len(asks) > 0 && len(m.Held) == 0 && !m.HasEligible() {
		v := undecided(m)
		v.warnings = slices.Concat(told, v.warnings)
		return v
	}
	if err != nil {
		return deny(err)
	}
	warnings := slices.Concat(told, unserved)
	if err := h.checkStillAsked(ctx, m, asks); err != nil {
		return deny(err)
	}
	asks, dropped, err := m.NewAsks(asks)
	if err != nil {
		return deny(err)
	}
	if len(asks)+len(dropped) == 0 {
		return verdict{warnings: warnings, unserved: unserved}
	}
	if m.Name == "" {
		return allow("metadata.generateName gives the machine no name yet: its addresses follow when a Machine owns it; set metadata.name to have them at once")
	}
	paused, err := h.Demand.IsPaused(ctx, m)
	if err != nil {
		return deny(err)
	}
	if paused {
		return whilePaused(req, m)
	}

	request := allocator.Request{
		Stamp:   ipam.Stamp{Time: time.Now(), Request: req.UID},
		Machine: m.Identity(),
		Owner:   m.Owner(req.UserInfo.Username),
		Asks:    asks,
	}
	var v verdict
	if isDryRun(req) {
		v = h.preview(ctx, request)
	} else {
		v = h.claimAndInject(ctx, req.Object.Raw, request, injection{machine: m, dropped: dropped})
	}
	v.warnings = append(v.warnings, warnings...)
	if v.err == nil {
		v.unserved = unserved
	}
	return v
}

// deferred tells of a machine that gets its addresses late.
const deferred = "the machine's failure domain decides about its addresses and is not known yet: they are claimed when its Machine exists"

// undecided admits a machine as it is, to be given its addresses when its failure domain
// is known. So is one none of whose own devices waits for an address, and that its failure
// domain takes another source away from: admission is not asked about all of these.
// What an earlier call for the same create has claimed cannot be left: a machine is
// given all of its addresses, or none.
func undecided(m *machine.Machine) verdict {
	if len(m.Held) > 0 {
		return deny(ipam.Refuse(ipam.DevicePinned, "a webhook that runs after this one asks for more addresses, about which the machine's failure domain decides, "+
			"and that is not known yet: have that webhook run before this one"))
	}
	return allow(deferred)
}

// whilePaused decides about a machine whose Cluster is paused. CAPI's controllers
// look before they make machines, and not again before each of them: what else
// they make would be stored without an address. Refused, they make it when the Cluster
// is resumed. A machine without an owner is made by a person, who is warned and can
// wait.
func whilePaused(req admission.Request, m *machine.Machine) verdict {
	owner := m.Owner(req.UserInfo.Username)
	if owner.UID == "" || isDryRun(req) {
		return allow("the machine's Cluster is paused: its addresses follow when the Cluster is resumed and a Machine owns it")
	}
	return deny(ipam.Refuse(ipam.ClusterPaused, "Cluster %q is paused, so that %s %q gets no machine now: resume the Cluster",
		m.Labels[clusterv1.ClusterNameLabel], owner.Kind, owner.Name))
}

func isDryRun(req admission.Request) bool { return req.DryRun != nil && *req.DryRun }

// preview answers a dry run, which must leave no trace: the machine stays as it
// is, and what would be claimed, or what would deny it, is a warning.
func (h *Handler) preview(ctx context.Context, request allocator.Request) verdict {
	warnings, err := h.Allocator.Check(ctx, request)
	if errors.Is(err, ipam.ErrUndecided) {
		return allow(deferred)
	}
	if refusal, ok := ipam.AsRefusal(err); ok {
		return allow(refusal.Message)
	}
	if err != nil {
		return deny(err)
	}
	return allow(warnings...)
}

// checkStillAsked refuses a machine that was given addresses by an earlier call for the
// same create, and that a webhook behind this one has made ask for other pools.
func (h *Handler) checkStillAsked(ctx context.Context, m *machine.Machine, asks []ipam.Ask) error {
	for _, ask := range asks {
		held, isHeld := m.HeldFor(ask)
		if !isHeld {
			continue
		}
		meant, err := h.Allocator.Meant(ctx, m.Identity(), ask)
		if err != nil {
			return err
		}
		if !slices.Contains(meant, held.Pool) {
			return machine.RefuseChangeBehind(held)
		}
	}
	return nil
}

// injection is what goes into a machine besides what is claimed for it.
type injection struct {
	machine *machine.Machine
	// dropped are bindings of the machine whose address something has taken off
	// their device since an earlier call.
	dropped []ipam.Binding
}

// claimAndInject claims the addresses and writes them into the machine.
func (h *Handler) claimAndInject(ctx context.Context, raw []byte, request allocator.Request, into injection) verdict {
	v := h.claimThen(ctx, request, func(bindings []ipam.Binding) (verdict, error) { return into.patch(raw, bindings) })
	if errors.Is(v.err, ipam.ErrUndecided) {
		// As a rule it is known before the first claim, but the pool may have changed.
		return undecided(into.machine)
	}
	return v
}

// claimThen claims what is wanted, and has the answer made of the bindings. Whatever fails
// after the first claim, taking the claims back begins before the answer.
func (h *Handler) claimThen(ctx context.Context, request allocator.Request, answer func([]ipam.Binding) (verdict, error)) verdict {
	granted := grantOf(ctx)
	if granted.timeout < minTimeout {
		return deny(ipam.Refuse(ipam.TimeoutTooShort, "the API server grants this call less than %s, too little to bind an address: "+
			"raise timeoutSeconds in the webhook configuration, or the client's own timeout", minTimeout))
	}
	bounded, cancel := context.WithDeadline(ctx, granted.end().Add(-answerMargin))
	defer cancel()

	attempt, err := h.claim(bounded, request)
	if err == nil {
		var v verdict
		if v, err = answer(attempt.Bindings); err == nil {
			v.warnings = append(v.warnings, attempt.Warnings...)
			return v
		}
	}
	if errors.Is(err, allocator.ErrMachineExists) {
		// That would be the API server's answer, too; but what is here now may be gone before
		// the new one is stored, which would then have no address.
		return deny(err)
	}
	if _, refused := ipam.AsRefusal(err); !refused && !errors.Is(err, ipam.ErrUndecided) && bounded.Err() != nil {
		err = ipam.Refuse(ipam.NotBoundInTime, "no address could be bound in time: "+
			"the API server or the IPAM controller is slow or down; see its log")
	}
	h.takeBack(ctx, attempt)
	return deny(err)
}

// claim claims what is wanted. Of a machine that brings all its bindings along
// nothing is.
func (h *Handler) claim(ctx context.Context, request allocator.Request) (*allocator.Attempt, error) {
	if len(request.Asks) == 0 {
		return &allocator.Attempt{}, nil
	}
	return h.Allocator.Claim(ctx, request)
}

// patch writes the bindings that were claimed into the machine, beside those that it
// holds.
func (i injection) patch(raw []byte, claimed []ipam.Binding) (verdict, error) {
	all := slices.Concat(i.machine.Held, claimed)
	patch, err := machine.PatchFor(raw, func(doc machine.Document) error {
		return machine.Inject(doc, slices.Concat(i.dropped, claimed), ipam.Bindings{Machine: i.machine.Name, Bindings: all})
	})
	return verdict{patch: patch, warnings: machine.DefaultRoutes(i.machine, all)}, err
}

// takeBack cleans up even if the caller is gone: a cut connection must not leak.
// It returns when that is done, or when it is time to answer: then it goes on.
func (h *Handler) takeBack(ctx context.Context, attempt *allocator.Attempt) {
	done := make(chan struct{})
	background := context.WithoutCancel(ctx)
	h.takingBack.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(background, takeBackTimeout)
		defer cancel()
		if err := h.Allocator.TakeBack(ctx, attempt); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot take back claims, they are reaped later")
		}
	})
	answer, cancel := context.WithDeadline(background, answerTimeOf(ctx))
	defer cancel()
	select {
	case <-done:
	case <-answer.Done():
	}
}

// Wait returns when everything is done that goes on after an answer. There must
// be no more requests.
func (h *Handler) Wait() { h.takingBack.Wait() }
