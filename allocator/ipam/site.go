package ipam

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ErrUndecided says that what a machine is to be given depends on its failure domain,
// which is not known yet.
var ErrUndecided = errors.New("the machine's failure domain decides about its addresses and is not known yet")

// Site is where a device is: in a failure domain, and on a network there.
type Site struct {
	// FailureDomain is the name that Machine and VSphereDeploymentZone have in common,
	// empty if the machine has none.
	FailureDomain string
	// Network is what the device is connected to there. It may be another one than
	// the device itself names.
	Network string
}

// sites are all places where the device may be, at least one.
func (a Ask) sites() []Site {
	if len(a.Sites) == 0 {
		return []Site{{Network: a.Device.NetworkName}}
	}
	return a.Sites
}

// Networks are what the device may be connected to, each once. One that the device does
// not name is empty.
func (a Ask) Networks() []string {
	var networks []string
	for _, site := range a.sites() {
		if !slices.Contains(networks, site.Network) {
			networks = append(networks, site.Network)
		}
	}
	return networks
}

// Network is what the device is connected to, empty if that is not known.
func (a Ask) Network() string {
	if networks := a.Networks(); len(networks) == 1 {
		return networks[0]
	}
	return ""
}

// NoteFailureDomains writes on a claim for which failure domains of the machine it is
// right, in the way of FailureDomainsAnnotation on pools. An empty entry stands for none.
func NoteFailureDomains(claim client.Object, ask Ask) {
	annotations := maps.Clone(claim.GetAnnotations())
	delete(annotations, FailureDomainsAnnotation)
	if len(ask.Sites) > 0 {
		names := make([]string, len(ask.Sites))
		for i, site := range ask.Sites {
			names[i] = site.FailureDomain
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[FailureDomainsAnnotation] = strings.Join(names, ",")
	}
	claim.SetAnnotations(annotations)
}

// NotedFailureDomains are those of NoteFailureDomains, none if there is no note.
func NotedFailureDomains(claim client.Object) []string {
	text, noted := claim.GetAnnotations()[FailureDomainsAnnotation]
	if !noted {
		return nil
	}
	return strings.Split(text, ",")
}

// describeDomains is how a sentence says which failure domains the machine may be in.
func (a Ask) describeDomains() string {
	var domains []string
	for _, site := range a.Sites {
		if site.FailureDomain != "" && !slices.Contains(domains, site.FailureDomain) {
			domains = append(domains, site.FailureDomain)
		}
	}
	if len(domains) == 0 {
		return "the machine has none"
	}
	return a.DomainsOf + " " + quoted(domains)
}
