package late

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	machinesLate = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capv_static_ip_machines_late_total",
		Help: "Machines that were given their addresses after they had been stored, by cause (paused, generate_name, failure_domain, not_asked).",
	}, []string{"cause"})

	machinesWaiting = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "capv_static_ip_machines_waiting",
		Help: "Machines that are stored without the addresses that they ask for, and were refused. The leader tells.",
	})

	endpointsLate = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_endpoints_late_total",
		Help: "VSphereClusters that were given their endpoint after they had been stored.",
	})

	endpointsWaiting = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "capv_static_ip_endpoints_waiting",
		Help: "VSphereClusters that are stored without the endpoint that they ask for, and were refused. The leader tells.",
	})
)

func init() {
	metrics.Registry.MustRegister(machinesLate, machinesWaiting, endpointsLate, endpointsWaiting)
}
