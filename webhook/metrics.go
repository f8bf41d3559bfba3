package webhook

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
)

var (
	admissions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capv_static_ip_admissions_total",
		Help: "Admission requests by operation, outcome (patched, unchanged, denied, exists, invalid, error), and reason of a denial.",
	}, []string{"operation", "outcome", "reason"})

	admissionDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "capv_static_ip_admission_duration_seconds",
		Help:    "Time to decide about an admission request, waiting for the provider included.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"operation", "outcome"})

	sharedAddresses = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_shared_addresses_total",
		Help: "Times a machine with a VM of its own was admitted with an address that something else has.",
	})
)

func init() {
	metrics.Registry.MustRegister(admissions, admissionDuration, sharedAddresses)
}

func observe(operation admissionv1.Operation, v verdict, took time.Duration) {
	outcome, reason := outcomeOf(v)
	if outcome == "invalid" {
		// An unknown operation is the sender's text: no label of ours.
		operation = ""
	}
	admissions.WithLabelValues(string(operation), outcome, reason).Inc()
	admissionDuration.WithLabelValues(string(operation), outcome).Observe(took.Seconds())
}

func outcomeOf(v verdict) (outcome, reason string) {
	var bad badRequest
	refusal, refused := ipam.AsRefusal(v.err)
	switch {
	case refused:
		return "denied", string(refusal.Reason)
	case errors.As(v.err, &bad):
		return "invalid", ""
	case errors.Is(v.err, allocator.ErrMachineExists):
		return "exists", ""
	case v.err != nil:
		return "error", ""
	case len(v.patch) > 0:
		return "patched", ""
	}
	return "unchanged", ""
}
