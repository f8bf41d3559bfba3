package retry

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var ownersTouched = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "capv_static_ip_owners_touched_total",
	Help: "Times the owner of a refused machine was made to try again.",
})

func init() {
	metrics.Registry.MustRegister(ownersTouched)
}
