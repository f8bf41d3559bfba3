package ipam

import "sigs.k8s.io/controller-runtime/pkg/client"

// elfSearchDomainAnnotation is what the static IP adapter for ELF calls
// SearchDomainsAnnotation.
const elfSearchDomainAnnotation = "cluster.x-k8s.io/ip-search-domain"

// SearchDomains are the DNS search domains that a pool's annotation lists.
func SearchDomains(pool client.Object) []string {
	annotations := pool.GetAnnotations()
	if domains := SplitList(annotations[SearchDomainsAnnotation]); len(domains) > 0 {
		return domains
	}
	return SplitList(annotations[elfSearchDomainAnnotation])
}
