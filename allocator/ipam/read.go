package ipam

import "strings"

// readDomains end the names of the annotations that some part of this program
// reads, whether on machines, pools, claims or addresses.
func readDomains() []string { return []string{"capv-static-ip.dev", "cluster.x-k8s.io"} }

// ReadsAnnotation tells whether some part of this program may read an annotation
// of this name. What it does not read need not be kept in memory.
func ReadsAnnotation(name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	for _, read := range readDomains() {
		if domain == read || strings.HasSuffix(domain, "."+read) {
			return true
		}
	}
	return false
}
