package recorder

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var dropped = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "capv_static_ip_events_dropped_total",
	Help: "Events that were not made because there were too many, or could not be stored.",
})

func init() {
	metrics.Registry.MustRegister(dropped)
}
