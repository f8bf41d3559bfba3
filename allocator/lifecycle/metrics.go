package lifecycle

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	claimsReleased = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_claims_released_total",
		Help: "Bindings given back because their machine and its VM are gone.",
	})

	claimsReaped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_claims_reaped_total",
		Help: "Claims deleted because their machine was never stored, or stored without them.",
	})

	wrongFailureDomain = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_wrong_failure_domain_total",
		Help: "Machines found in another failure domain than their addresses were given for.",
	})

	addressesChanged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_addresses_changed_total",
		Help: "Machines found with another address on their devices than the one that they were given.",
	})
)

func init() {
	metrics.Registry.MustRegister(claimsReleased, claimsReaped, wrongFailureDomain, addressesChanged)
}
