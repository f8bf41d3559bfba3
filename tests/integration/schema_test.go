package integration

import (
	"fmt"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/tests/harness"
)

// The API server looks at the schema when it has our answer: what a device cannot
// hold would cost an address for each machine.
func TestPoolWithMoreDNSThanADeviceHoldsIsDeniedAndLeavesNothing(t *testing.T) {
	t.Parallel()
	const domains = "cluster.x-k8s.io/dns-search-domains"
	listOf := func(count int, format string) string {
		var entries []string
		for i := range count {
			entries = append(entries, fmt.Sprintf(format, i))
		}
		return strings.Join(entries, ",")
	}
	annotated := func(key, value string) (func(*ipamv1.IPPool), harness.InClusterOption) {
		annotate := harness.WithAnnotation(key, value)
		return func(pool *ipamv1.IPPool) { annotate(pool) }, func(pool *unstructured.Unstructured) { annotate(pool) }
	}
	servers := func(count int) (func(*ipamv1.IPPool), harness.InClusterOption) {
		text := listOf(count, "10.15.0.%d")
		_, inCluster := annotated(nameservers, text)
		return func(pool *ipamv1.IPPool) {
			pool.Spec.DNSServers = nil
			for server := range strings.SplitSeq(text, ",") {
				pool.Spec.DNSServers = append(pool.Spec.DNSServers, ipamv1.IPAddressStr(server))
			}
		}, inCluster
	}
	type tested struct {
		metal3    func(*ipamv1.IPPool)
		inCluster harness.InClusterOption
	}
	both := func(metal3 func(*ipamv1.IPPool), inCluster harness.InClusterOption) tested {
		return tested{metal3, inCluster}
	}
	for name, test := range map[string]struct {
		tested
		// denied is empty if machines are admitted.
		denied string
	}{
		"as many search domains as a device holds": {both(annotated(domains, listOf(128, "d%d.example.org"))), ""},
		"one search domain more":                   {both(annotated(domains, listOf(129, "d%d.example.org"))), "has 129 search domains, of which CAPV takes 128 for a device: shorten the list"},
		"a search domain that is too long":         {both(annotated(domains, strings.Repeat("d", 1025))), "has a search domain that is longer than the 1024 characters which CAPV takes: correct it"},
		"as many name servers as a device holds":   {both(servers(128)), ""},
		"one name server more":                     {both(servers(129)), "has 129 name servers, of which CAPV takes 128 for a device: shorten the list"},
	} {
		t.Run("metal3, "+name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			pool := harness.Pool(s.ns)
			test.metal3(pool)
			s.create(pool)
			s.admitsOrDenies(harness.WithPool(harness.DefaultPool), `IPPool "dkp-cluster" in namespace "NAMESPACE" `, test.denied)
		})
		t.Run("in-cluster, "+name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.inClusterPool(test.inCluster)
			s.admitsOrDenies(withPoolOf("0", inClusterRef), inClusterName+" ", test.denied)
		})
	}
}

// admitsOrDenies checks that machines are denied with what is said of the pool, and
// that nothing is claimed for them; or admitted, if nothing is said.
func (s *scene) admitsOrDenies(asking harness.Option, pool, denied string) {
	s.Helper()
	if denied == "" {
		s.create(harness.Machine(s.ns, "cp-0", asking))
		return
	}
	s.expectDenial(s.env.Client.Create(s.Context(), harness.Machine(s.ns, "cp-0", asking)), pool+denied)
	if claims := s.claims(); len(claims) > 0 {
		s.Errorf("%d claims are left", len(claims))
	}
}
