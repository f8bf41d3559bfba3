package aside

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var setAside = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "capv_static_ip_addresses_set_aside",
	Help: "Addresses that no machine can be given now, and that are kept from being handed out, by cause. The leader tells.",
}, []string{"cause"})

func init() {
	metrics.Registry.MustRegister(setAside)
}
