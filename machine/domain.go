package machine

import (
	"fmt"
	"reflect"
	"slices"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// Domain is a failure domain that a machine is in, or may yet get.
type Domain struct {
	// Name is that of a VSphereDeploymentZone, empty for a machine without one.
	Name string
	// Askers are the metadata of the VSphereDeploymentZone, and then of its
	// VSphereFailureDomain.
	Askers []Asker
	// FailureDomain is the name of the latter, and Topology what it says of devices.
	FailureDomain string
	Topology      capi.Topology
}

// In is the machine with the devices that CAPV makes of its own in a failure domain.
// Those that the domain adds are left out: they cannot be given an address.
func (m *Machine) In(domain Domain) *Machine {
	there := *m
	there.Spec.Network.Devices = Effective(m.Spec.Network.Devices, domain.Topology)[:len(m.Spec.Network.Devices)]
	return &there
}

// AsksIn is Asks for a machine that is, or is yet to be, in one of these failure domains.
// Where there are none, it is Asks. It returns ipam.ErrUndecided if they differ in what the machine asks for. What stands on
// the domains comes after the machine's own metadata, which is that of the first asker.
func (m *Machine) AsksIn(domains []Domain, asked []Asker) (asks []Ask, warnings []string, err error) {
	if len(domains) == 0 {
		return m.Asks(asked)
	}
	var refused []error
	var answers [][]Ask
	for _, domain := range domains {
		found, told, err := m.In(domain).Asks(slices.Concat(asked[:1], domain.Askers, asked[1:]))
		if err != nil {
			refused = append(refused, err)
			continue
		}
		answers = append(answers, found)
		warnings = append(warnings, told...)
	}
	switch {
	case len(answers) == 0:
		return nil, nil, refused[0]
	case len(refused) > 0, slices.ContainsFunc(answers, func(other []Ask) bool { return !sameAsks(answers[0], other) }):
		return nil, nil, ipam.ErrUndecided
	}
	asks = answers[0]
	for i, ask := range asks {
		asks[i].Device = DeviceOf(m.Spec.Network.Devices[ask.Device.Index], ask.Device.Index)
	}
	warnings = append(warnings, m.surplus(domains)...)
	slices.Sort(warnings)
	return asks, slices.Compact(warnings), nil
}

// AnswersIn is AnswersFor for a machine that is in one of these failure domains, or in
// none if there are none.
func (a Asker) AnswersIn(m *Machine, domains []Domain) bool {
	if len(domains) == 0 {
		return a.AnswersFor(m)
	}
	return !slices.ContainsFunc(domains, func(domain Domain) bool { return !a.AnswersFor(m.In(domain)) })
}

// sameAsks tells whether two failure domains have the same devices served in the same
// way. Who asks, and on which networks they are, makes no difference.
func sameAsks(a, b []Ask) bool {
	return slices.EqualFunc(a, b, func(x, y Ask) bool { return reflect.DeepEqual(withoutPlace(x), withoutPlace(y)) })
}

func withoutPlace(ask Ask) Ask {
	ask.Device, ask.AskedBy, ask.From = ipam.Device{Index: ask.Device.Index}, "", nil
	return ask
}

// SitesOf are the places where a device is in these failure domains.
func (m *Machine) SitesOf(index int, domains []Domain) []ipam.Site {
	var sites []ipam.Site
	for _, domain := range domains {
		sites = append(sites, ipam.Site{FailureDomain: domain.Name, Network: m.In(domain).Spec.Network.Devices[index].NetworkName})
	}
	return sites
}

// HasEligible tells whether one of the machine's own devices waits for an address,
// whatever its failure domain says.
func (m *Machine) HasEligible() bool { return slices.ContainsFunc(m.Spec.Network.Devices, Eligible) }

// surplus warns of devices that failure domains add to the machine's own, and that
// nothing gives an address. It says nothing of a machine that may as well be in none.
func (m *Machine) surplus(domains []Domain) (warnings []string) {
	for _, domain := range domains {
		if domain.Name == "" {
			return nil
		}
		own := len(m.Spec.Network.Devices)
		for i, d := range Effective(m.Spec.Network.Devices, domain.Topology)[own:] {
			if Eligible(d) {
				warnings = append(warnings, fmt.Sprintf("failure domain %q adds device %d, which has no source of addresses: "+
					"set dhcp4 or addressesFromPools in VSphereFailureDomain %q", domain.Name, own+i, domain.FailureDomain))
			}
		}
	}
	return warnings
}
