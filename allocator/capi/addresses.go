package capi

import (
	"net/netip"
	"path"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// User is an object that may have addresses.
//
// +kubebuilder:object:generate=false
type User interface {
	client.Object
	// Addresses are those that it has.
	Addresses() []Place
}

// Users are empty objects of all kinds that may have addresses.
func Users() []User { return []User{&VSphereMachine{}, &VSphereVM{}, &Cluster{}, &VSphereCluster{}} }

// Place is where an address stands.
//
// +kubebuilder:object:generate=false
type Place struct {
	IP netip.Addr
	// Network is the name of the network, empty where the object does not say.
	Network string
}

// Addresses are those on the machine's devices. What is not an address is left
// out: users may write anything.
func (m *VSphereMachine) Addresses() []Place { return m.Spec.Network.addresses() }

// Addresses are those on the VM's devices and those that its guest reports. Of
// an address that stands on a device the network is known, so the guest's word
// adds nothing.
func (vm *VSphereVM) Addresses() []Place {
	places := vm.Spec.Network.addresses()
	for _, nic := range vm.Status.Network {
		for _, text := range nic.IPAddrs {
			places = addReported(places, text, nic.NetworkName)
		}
	}
	for _, text := range vm.Status.Addresses {
		places = addReported(places, text, "")
	}
	return places
}

// Addresses is the Cluster's endpoint, where that is an address.
func (c *Cluster) Addresses() []Place { return c.Spec.ControlPlaneEndpoint.addresses() }

// Addresses is the VSphereCluster's endpoint, where that is an address.
func (c *VSphereCluster) Addresses() []Place { return c.Spec.ControlPlaneEndpoint.addresses() }

func (e APIEndpoint) addresses() []Place {
	ip, err := netip.ParseAddr(e.Host)
	if err != nil {
		return nil
	}
	return []Place{{IP: ip.Unmap().WithZone("")}}
}

func (n *Network) addresses() []Place {
	var places []Place
	for _, device := range n.Devices {
		for _, text := range device.IPAddrs {
			if ip := ParseAddress(text); ip.IsValid() {
				places = append(places, Place{IP: ip, Network: device.NetworkName})
			}
		}
	}
	return places
}

func addReported(places []Place, text, network string) []Place {
	ip := ParseAddress(text)
	if !ip.IsValid() || slices.ContainsFunc(places, func(p Place) bool { return p.IP == ip }) {
		return places
	}
	return append(places, Place{IP: ip, Network: network})
}

// ParseAddress reads an address, with or without the length of its prefix. It is
// the zero address if the text is neither.
func ParseAddress(text string) netip.Addr {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Addr().Unmap()
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}

// SameNetwork tells whether two names may be of one network. A network may be
// named by itself or by its path in the vCenter's inventory; an empty name may
// be any.
func SameNetwork(a, b string) bool {
	return a == "" || b == "" || path.Base(a) == path.Base(b)
}
