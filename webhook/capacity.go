package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/klog/v2"
)

// CapacityPath is where the API server sends changes of what makes machines.
const CapacityPath = "/warn-of-capacity"

const (
	// forecastTime is how long a change is held up at the most: it waits for its turn, and
	// the rest is reading caches.
	forecastTime = time.Second
	// maxChange is the size of a change that is read: two of the largest objects.
	maxChange = 2*maxRequest + 1<<20
)

// Forecaster knows what a change will want for.
type Forecaster interface {
	// Forecast is a sentence for each pool that has too few addresses for a change.
	// Nothing is before an object that is created.
	Forecast(ctx context.Context, before, after *unstructured.Unstructured) ([]string, error)
}

// CapacityHandler warns of changes for which there are too few addresses. It never denies
// one: whatever it cannot do, it leaves undone. Changes are looked at one after the other,
// so that many of them do not take the processor away from the admission of machines.
type CapacityHandler struct {
	// Forecaster is nil where nobody is to be warned.
	Forecaster Forecaster
	// Namespace is the only one served; all are if it is empty.
	Namespace string

	turn *semaphore.Weighted
}

// NewForCapacity makes of the handler what a webhook server serves.
func NewForCapacity(forecaster Forecaster, namespace string) *CapacityHandler {
	return &CapacityHandler{Forecaster: forecaster, Namespace: namespace, turn: semaphore.NewWeighted(1)}
}

// ServeHTTP implements http.Handler. An answer that is no AdmissionReview lets the change
// through, as the webhook's configuration says. It is not made by the machinery of the other
// webhooks, which denies what it cannot read.
func (h *CapacityHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), forecastTime)
	defer cancel()
	if err := h.turn.Acquire(ctx, 1); err != nil {
		http.Error(w, "other changes are being looked at", http.StatusServiceUnavailable)
		return
	}
	defer h.turn.Release(1)
	// A sender that dawdles must not keep the others waiting. Where this cannot be set, the
	// API server's own timeout has to do.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(forecastTime))
	review := &admissionv1.AdmissionReview{}
	err := json.NewDecoder(io.LimitReader(r.Body, maxChange)).Decode(review)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil || review.Request == nil {
		http.Error(w, "this is no AdmissionReview", http.StatusBadRequest)
		return
	}
	answer := &admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: &admissionv1.AdmissionResponse{
		UID: review.Request.UID, Allowed: true, Warnings: h.warnings(ctx, review.Request),
	}}
	w.Header().Set("Content-Type", "application/json")
	// The sender may be gone, and needs no answer then.
	_ = json.NewEncoder(w).Encode(answer)
}

// warnings are what there is to say of a change, nothing if that is not known.
func (h *CapacityHandler) warnings(ctx context.Context, req *admissionv1.AdmissionRequest) []string {
	if h.Forecaster == nil || h.Namespace != "" && h.Namespace != req.Namespace {
		return nil
	}
	warnings, err := h.forecast(ctx, req)
	if err != nil {
		klog.FromContext(ctx).V(1).Info("Cannot say whether there are addresses enough for a change",
			"kind", req.Kind.Kind, "object", klog.KRef(req.Namespace, req.Name), "cause", err.Error())
		return nil
	}
	return warnings
}

func (h *CapacityHandler) forecast(ctx context.Context, req *admissionv1.AdmissionRequest) (warnings []string, err error) {
	// A mistake in here must not become one of the change.
	defer func() {
		if cause := recover(); cause != nil {
			warnings, err = nil, fmt.Errorf("looking at the change: %v", cause)
		}
	}()
	after, err := objectIn(req.Object.Raw)
	if err != nil {
		return nil, err
	}
	if after == nil {
		return nil, errors.New("the request brings no object")
	}
	before, err := objectIn(req.OldObject.Raw)
	if err != nil {
		return nil, err
	}
	after.SetNamespace(req.Namespace)
	return h.Forecaster.Forecast(ctx, before, after)
}

// objectIn is an object of a request, nil if there is none.
func objectIn(raw []byte) (*unstructured.Unstructured, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("reading the object of a request: %w", err)
	}
	return object, nil
}
