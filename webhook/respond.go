package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

func (h *Handler) respond(ctx context.Context, req admission.Request, v verdict) admission.Response {
	log := klog.FromContext(ctx)
	var bad badRequest
	refusal, refused := ipam.AsRefusal(v.err)
	switch {
	case refused:
		log.Info("Denied a request", "operation", req.Operation, "reason", refusal.Reason, "message", refusal.Message)
		h.tell(req, refusal)
		return admission.Denied(refusal.Message)
	case errors.As(v.err, &bad):
		return admission.Errored(http.StatusBadRequest, bad.error)
	case errors.Is(v.err, allocator.ErrMachineExists):
		conflict := apierrors.NewAlreadyExists(schema.GroupResource{Group: req.Resource.Group, Resource: req.Resource.Resource}, req.Name).Status()
		return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &conflict}}
	case v.err != nil:
		log.Error(v.err, "Cannot decide about a request", "operation", req.Operation)
		message := fmt.Sprintf("addresses could not be allocated (%s): see the log of capv-static-ip", stableCause(v.err))
		h.tell(req, &ipam.Refusal{Reason: ipam.AllocationFailed, Message: message})
		return admission.Errored(http.StatusInternalServerError, errors.New(message))
	case len(v.patch) > 0:
		log.Info("Admitted with addresses", "operation", req.Operation)
		return admission.Patched("", v.patch...).WithWarnings(v.warnings...)
	}
	return admission.Allowed("").WithWarnings(v.warnings...)
}

// stableCause is the part of an error that does not change from try to try.
func stableCause(err error) string {
	if reason := apierrors.ReasonForError(err); reason != "" {
		return string(reason)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the API server has not answered in time"
	}
	return "unknown error"
}

// tell puts a refusal where users look: into an event on each owner, which is
// what outlives the refusal, or else into one on the machine's name. It is also noted
// on the owners, so that they are made to try again. A dry run leaves no trace.
func (h *Handler) tell(req admission.Request, refusal *ipam.Refusal) {
	if isDryRun(req) {
		return
	}
	// An object that cannot be read names no owners.
	if m, err := machine.Decode(req.Object.Raw); err == nil {
		h.tellOwners(req, m.Owners(), refusal)
		if len(m.Owners()) > 0 && isOneOfMany(req) {
			return
		}
	}
	if req.Name != "" {
		h.warn(machineIn(req), refusal)
	}
}

// isOneOfMany tells whether the name of what is refused is a new one with each try of
// its owner: nobody looks there.
func isOneOfMany(req admission.Request) bool {
	return req.Operation == admissionv1.Create && req.Kind.Kind == capi.VSphereMachineKind.Kind
}

// machineIn is the machine of a request, as an event names it.
func machineIn(req admission.Request) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: schema.GroupVersion{Group: req.Kind.Group, Version: req.Kind.Version}.String(), Kind: req.Kind.Kind,
		Namespace: req.Namespace, Name: req.Name,
	}
}

// ownerIn is an owner of that machine.
func ownerIn(req admission.Request, owner metav1.OwnerReference) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: owner.APIVersion, Kind: owner.Kind,
		Namespace: req.Namespace, Name: owner.Name, UID: owner.UID,
	}
}

func (h *Handler) tellOwners(req admission.Request, owners []metav1.OwnerReference, refusal *ipam.Refusal) {
	for _, owner := range owners {
		h.warn(ownerIn(req, owner), refusal)
		// Only a create is what its owner tries again.
		if req.Operation == admissionv1.Create {
			h.Refusals.Record(req.Namespace, owner, refusal)
		}
	}
}

// warn makes an event. It does not wait for it to be stored.
func (h *Handler) warn(regarding *corev1.ObjectReference, refusal *ipam.Refusal) {
	h.Events.Eventf(regarding, nil, corev1.EventTypeWarning, string(refusal.Reason), "Admit", "%s", refusal.Message)
}

// tellUnserved puts into events on a machine's name, and on its owners, that it
// has asked in vain, or that nobody asks for a device which CAPV will wait for.
func (h *Handler) tellUnserved(req admission.Request, unserved []string) {
	if len(unserved) == 0 || isDryRun(req) {
		return
	}
	told := &ipam.Refusal{Reason: ipam.AskedInVain, Message: strings.Join(unserved, "; ")}
	if req.Name != "" {
		h.warn(machineIn(req), told)
	}
	if m, err := machine.Decode(req.Object.Raw); err == nil {
		for _, owner := range m.Owners() {
			h.warn(ownerIn(req, owner), told)
		}
	}
}
