package allocator

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	providerWait = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "capv_static_ip_provider_wait_seconds",
		Help:    "Time from making a claim until the provider had bound it.",
		Buckets: []float64{.005, .01, .02, .03, .05, .075, .1, .2, .5, 1, 2, 5, 10},
	}, []string{"pool_kind"})

	claimsMade = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_claims_made_total",
		Help: "Claims made for machines, at admission or later.",
	})

	addressesTaken = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_addresses_taken_total",
		Help: "Addresses taken for machines without their provider, see --metal3-allocation.",
	})

	addressCollisions = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_address_collisions_total",
		Help: "Addresses that were to be taken and that somebody else had taken a moment before.",
	})

	addressesGivenBack = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_addresses_given_back_total",
		Help: "Addresses that were taken for machines which were denied, or never came, and that were given back before they had a claim.",
	})

	addressesSetAside = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "capv_static_ip_addresses_set_aside_total",
		Help: "Addresses that no machine can be given and that were kept from being handed out again, by cause.",
	}, []string{"cause"})

	claimsTakenBack = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_claims_taken_back_total",
		Help: "Claims deleted by the request that used them, because it was denied.",
	})
	claimsRecreated = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_claims_recreated_total",
		Help: "Claims recreated for the address that a living machine has, because they were missing.",
	})

	addressesLost = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_addresses_lost_total",
		Help: "Times a machine was found using an address that is not bound to it.",
	})

	addressesCooling = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "capv_static_ip_addresses_cooling",
		Help: "Addresses whose machines, or Clusters, are gone, and that are kept from being handed out again for a while. The leader tells.",
	})

	strayAddressesDeleted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "capv_static_ip_stray_addresses_deleted_total",
		Help: "Address objects deleted because the provider had lost them: no claim led to them.",
	})
)

func init() {
	metrics.Registry.MustRegister(providerWait, claimsMade, claimsTakenBack, addressesTaken, addressCollisions, addressesGivenBack, addressesSetAside, claimsRecreated, addressesLost, addressesCooling, strayAddressesDeleted)
}
