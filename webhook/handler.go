package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
)

// Path is where the API server sends VSphereMachines.
const Path = "/mutate-infrastructure-cluster-x-k8s-io-vspheremachine"

// takeBackTimeout bounds the clean-up after a denied request, which may go on when
// the answer is given. What it misses is reaped after the grace period.
const takeBackTimeout = 15 * time.Second

// Allocator is what admission needs of IPAM.
type Allocator interface {
	// Named finds the pool that a bare name means in a namespace.
	Named(ctx context.Context, namespace, name string) (allocator.PoolReference, error)
	// Check fails with a Refusal if the request cannot be served now.
	Check(ctx context.Context, req allocator.Request) error
	// Claim binds an address for every want, or fails with a Refusal or
	// allocator.ErrMachineExists.
	Claim(ctx context.Context, req allocator.Request) ([]allocator.Binding, error)
	// TakeBack undoes what a failed Claim of the same request left.
	TakeBack(ctx context.Context, req allocator.Request) error
	// CheckUnshared fails with a Refusal if another living machine holds one of
	// the bindings.
	CheckUnshared(ctx context.Context, machine allocator.Machine, bindings allocator.Bindings) error
}

// Handler admits VSphereMachines.
type Handler struct {
	Allocator Allocator
	// Cache reads templates and clusters from informers, Live from the API server.
	Cache, Live client.Reader
	// Events tells the users what was refused, Owners what to wait for.
	Events events.EventRecorder
	Owners *Owners
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
	response := h.respond(ctx, req, v)
	observe(req.Operation, v, time.Since(start))
	return response
}

func (h *Handler) decide(ctx context.Context, req admission.Request) verdict {
	switch req.Operation {
	case admissionv1.Create:
		return h.create(ctx, req)
	case admissionv1.Update:
		return h.update(req)
	default:
		return deny(badRequest{fmt.Errorf("operation %q is not one of CREATE and UPDATE", req.Operation)})
	}
}

func (h *Handler) create(ctx context.Context, req admission.Request) verdict {
	m, err := decodeMachine(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	m.Namespace = req.Namespace
	if m.hasLife() {
		return h.leave(ctx, m)
	}

	if h.Namespace != "" && h.Namespace != m.Namespace {
		return allow(fmt.Sprintf("this installation of capv-static-ip serves namespace %q only: no address is claimed", h.Namespace))
	}
	wants, warnings, err := h.wants(ctx, m)
	if err != nil {
		return deny(err)
	}
	if len(wants) == 0 {
		return allow(warnings...)
	}
	if m.Name == "" {
		return allow("metadata.generateName gives the machine no name yet: no address is claimed for it; set metadata.name")
	}
	paused, err := h.isPaused(ctx, m)
	if err != nil {
		return deny(err)
	}
	if paused {
		return allow("the machine's Cluster is paused: no address is claimed for it")
	}

	claim := allocator.Request{
		Stamp:   allocator.Stamp{Time: time.Now(), Request: req.UID},
		Machine: m.identity(),
		Owner:   m.owner(),
		Wants:   wants,
	}
	var v verdict
	if isTrue(req.DryRun) {
		v = h.preview(ctx, claim)
	} else {
		v = h.inject(ctx, req.Object.Raw, claim)
	}
	v.warnings = append(v.warnings, warnings...)
	return v
}

// leave admits a machine that had a life before as it is: its addresses are in
// use. Only a copy of a living machine's manifest is denied, because it would
// share that machine's address and later free it.
func (h *Handler) leave(ctx context.Context, m *machine) verdict {
	bindings, err := m.bindings()
	if err != nil {
		return deny(err)
	}
	if err := h.Allocator.CheckUnshared(ctx, m.identity(), bindings); err != nil {
		return deny(err)
	}
	return allow()
}

// preview answers a dry run, which must leave no trace: the machine stays as it
// is, and what would deny it is a warning.
func (h *Handler) preview(ctx context.Context, claim allocator.Request) verdict {
	err := h.Allocator.Check(ctx, claim)
	if refusal, ok := allocator.AsRefusal(err); ok {
		return allow(refusal.Message)
	}
	if err != nil {
		return deny(err)
	}
	return allow()
}

// inject claims the addresses and writes them into the machine. Whatever fails
// after the first claim, the claims are taken back before the answer.
func (h *Handler) inject(ctx context.Context, raw []byte, claim allocator.Request) verdict {
	granted := grantOf(ctx)
	if granted.timeout < minTimeout {
		return deny(allocator.Refuse(allocator.TimeoutTooShort, "the API server grants this call less than %s, too little to bind an address: "+
			"raise timeoutSeconds in the webhook configuration, or the client's own timeout", minTimeout))
	}
	bounded, cancel := context.WithDeadline(ctx, granted.end().Add(-margin))
	defer cancel()

	patch, err := h.claimAndPatch(bounded, raw, claim)
	switch {
	case err == nil:
		return verdict{patch: patch}
	case errors.Is(err, allocator.ErrMachineExists):
		// The API server answers with the conflict that the user expects.
		return allow()
	}
	if _, refused := allocator.AsRefusal(err); !refused && bounded.Err() != nil {
		err = allocator.Refuse(allocator.NotBoundInTime, "no address could be bound in time: "+
			"the API server or the IPAM controller is slow or down; see its log")
	}
	h.takeBack(ctx, claim)
	return deny(err)
}

func (h *Handler) claimAndPatch(ctx context.Context, raw []byte, claim allocator.Request) ([]jsonpatch.Operation, error) {
	held, err := h.Allocator.Claim(ctx, claim)
	if err != nil {
		return nil, err
	}
	bindings := allocator.Bindings{Machine: claim.Machine.Name, Bindings: held}
	return patchFor(raw, func(doc document) error { return injectBindings(doc, bindings) })
}

// takeBack cleans up even if the caller is gone: a cut connection must not leak.
// It returns when that is done, or when it is time to answer: then it goes on.
func (h *Handler) takeBack(ctx context.Context, claim allocator.Request) {
	done := make(chan struct{})
	background := context.WithoutCancel(ctx)
	h.takingBack.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(background, takeBackTimeout)
		defer cancel()
		if err := h.Allocator.TakeBack(ctx, claim); err != nil {
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

// update keeps bound devices bound. It reads nothing but the request.
func (h *Handler) update(req admission.Request) verdict {
	before, err := decodeMachine(req.OldObject.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	after, err := decodeMachine(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	bindings, err := before.bindings()
	if err != nil {
		return allow(err.Error())
	}
	if bindings.Machine != before.Name {
		return allow()
	}
	patch, err := patchFor(req.Object.Raw, func(doc document) error {
		return pinBindings(before, after, bindings, doc)
	})
	return verdict{patch: patch, err: err}
}

func (h *Handler) respond(ctx context.Context, req admission.Request, v verdict) admission.Response {
	log := klog.FromContext(ctx)
	var bad badRequest
	refusal, refused := allocator.AsRefusal(v.err)
	switch {
	case refused:
		log.Info("Denied a machine", "operation", req.Operation, "reason", refusal.Reason, "message", refusal.Message)
		if !isTrue(req.DryRun) {
			h.tell(req, refusal)
		}
		return admission.Denied(refusal.Message)
	case errors.As(v.err, &bad):
		return admission.Errored(http.StatusBadRequest, bad.error)
	case v.err != nil:
		log.Error(v.err, "Cannot decide about a machine", "operation", req.Operation)
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf(
			"addresses could not be allocated (%s): see the log of capv-static-ip", stableCause(v.err)))
	case len(v.patch) > 0:
		log.Info("Admitted a machine with addresses", "operation", req.Operation)
		return admission.Patched("", v.patch...).WithWarnings(v.warnings...)
	}
	return admission.Allowed("").WithWarnings(v.warnings...)
}

// stableCause is the part of an error that does not change from try to try.
func stableCause(err error) string {
	if reason := apierrors.ReasonForError(err); reason != "" {
		return string(reason)
	}
	return "unknown error"
}

// tell puts a refusal where users look: into an event on the machine's name,
// and into one on each owner, which is what outlives the refusal. The owners are
// also noted to wait for what their pool did not have.
func (h *Handler) tell(req admission.Request, refusal *allocator.Refusal) {
	if req.Name != "" {
		h.warn(&corev1.ObjectReference{
			APIVersion: schema.GroupVersion{Group: req.Kind.Group, Version: req.Kind.Version}.String(), Kind: req.Kind.Kind,
			Namespace: req.Namespace, Name: req.Name,
		}, refusal)
	}
	m, err := decodeMachine(req.Object.Raw)
	if err != nil {
		return // it was refused for that
	}
	for _, owner := range m.owners() {
		h.warn(&corev1.ObjectReference{
			APIVersion: owner.APIVersion, Kind: owner.Kind,
			Namespace: req.Namespace, Name: owner.Name, UID: owner.UID,
		}, refusal)
		h.Owners.note(req.Namespace, owner, refusal.Lack)
	}
}

// warn makes an event. It does not wait for it to be stored.
func (h *Handler) warn(regarding *corev1.ObjectReference, refusal *allocator.Refusal) {
	h.Events.Eventf(regarding, nil, corev1.EventTypeWarning, string(refusal.Reason), "Admit", "%s", refusal.Message)
}
