package ipam

import (
	"errors"
	"slices"
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
func (w Want) sites() []Site {
	if len(w.Sites) == 0 {
		return []Site{{Network: w.Device.NetworkName}}
	}
	return w.Sites
}

// Network is what the device is connected to, empty if that is not known.
func (w Want) Network() string {
	sites := w.sites()
	for _, site := range sites[1:] {
		if site.Network != sites[0].Network {
			return ""
		}
	}
	return sites[0].Network
}

// describeDomains is how a sentence says which failure domains the machine may be in.
func (w Want) describeDomains() string {
	var domains []string
	for _, site := range w.Sites {
		if site.FailureDomain != "" && !slices.Contains(domains, site.FailureDomain) {
			domains = append(domains, site.FailureDomain)
		}
	}
	if len(domains) == 0 {
		return "the machine has none"
	}
	return w.DomainsOf + " " + quoted(domains)
}
