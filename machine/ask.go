package machine

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// PoolNameLabel on a machine, or on the template it was cloned from, names
	// the pool of all its eligible devices: the metal3 IPPool of that name in the
	// machine's namespace or, if there is none, the InClusterIPPool; see allocator.Resolve.
	PoolNameLabel = "cluster.x-k8s.io/ip-pool-name"

	// poolGroupLabel and networkNameLabel are how the static IP adapters select a
	// pool by the labels that it carries.
	poolGroupLabel   = "cluster.x-k8s.io/ip-pool-group"
	networkNameLabel = "cluster.x-k8s.io/network-name"
)

// Asker is metadata that may ask for pools: the machine's own, or its template's.
type Asker struct {
	metav1.Object
	// Name is how a sentence names it.
	Name string
	// ForMany says that it is not about this machine, nor about machines of its shape: it
	// may ask for devices that this one does not have.
	ForMany bool
}

// Ask is what an asker wants for a device.
type Ask struct {
	Device ipam.Device
	// Pool may leave its kind or its API group open.
	Pool ipam.PoolReference
	// By says where it is written, for a denial that can be acted upon.
	By string
	// From is whose label it is, nil if it is an annotation for just this device.
	From *Asker
	// NoGateway says that the device must not get the pool's gateway.
	NoGateway bool
}

// Asks lists what the machine's eligible devices ask for. It warns of devices that
// ask for nothing, and of what is asked for and no device can use. It returns a
// Refusal if something is asked for a device that the machine does not have, or
// in a way that cannot be served.
func (m *Machine) Asks(asked []Asker) (asks []Ask, warnings []string, err error) {
	if warnings, err = unused(asked, m); err != nil {
		return nil, nil, err
	}
	for i, d := range m.Spec.Network.Devices {
		if !Eligible(d) {
			continue
		}
		found, err := firstAsk(asked, DeviceOf(d, i))
		switch {
		case err != nil:
			return nil, nil, err
		case found == nil:
			warnings = append(warnings, fmt.Sprintf("device %d has no source of addresses: "+
				"set dhcp4 or ipAddrs, or name a pool with label %s or annotation %s%d", i, PoolNameLabel, ipam.PoolsAnnotationPrefix, i))
		case i >= ipam.MaxDevices:
			return nil, nil, ipam.Refuse(ipam.DeviceNotFound, "%s asks for an address for device %d, but only the first %d devices of a machine are given one: "+
				"remove the others, or give them addresses of their own", found.By, i, ipam.MaxDevices)
		default:
			if found.NoGateway, err = refusesGateway(asked, found.Device); err != nil {
				return nil, nil, err
			}
			asks = append(asks, *found)
		}
	}
	return asks, warnings, nil
}

// ask is what the asker wants for the device: its annotation for just this
// device, or else its label for all.
func (a Asker) ask(device ipam.Device) (*Ask, error) {
	for _, key := range keysOf(device) {
		text, ok := a.GetAnnotations()[ipam.PoolsAnnotationPrefix+key]
		if !ok {
			continue
		}
		by := fmt.Sprintf("annotation %s%s of %s", ipam.PoolsAnnotationPrefix, key, a.Name)
		if strings.ContainsAny(text, ",|") {
			return nil, ipam.Refuse(ipam.PoolNameInvalid, "%s names several pools (%q): name one", by, text)
		}
		pool, err := parseReference(strings.TrimSpace(text))
		if err != nil {
			return nil, ipam.Refuse(ipam.PoolNameInvalid, "%s is not a reference to a pool: %s; write NAME, KIND/NAME or KIND.GROUP/NAME", by, err)
		}
		return &Ask{Device: device, Pool: pool, By: by}, nil
	}
	switch label := a.label(); label {
	case "":
		return nil, nil
	case PoolNameLabel:
		name := a.GetLabels()[label]
		return &Ask{Device: device, Pool: ipam.PoolReference{Name: name}, By: fmt.Sprintf("label %s of %s", label, a.Name), From: &a}, nil
	default:
		return nil, ipam.Refuse(ipam.PoolNotNamed, "label %s of %s selects a pool by the labels of the pool, which is not supported: "+
			"name the pool there, in label %s or annotation %s%d", label, a.Name, PoolNameLabel, ipam.PoolsAnnotationPrefix, device.Index)
	}
}

// refusesGateway tells whether somebody says that the device must not get a gateway.
func refusesGateway(asked []Asker, device ipam.Device) (bool, error) {
	for _, by := range asked {
		for _, key := range keysOf(device) {
			text, ok := by.GetAnnotations()[ipam.GatewayAnnotationPrefix+key]
			switch {
			case !ok:
			case text != ipam.NoGateway:
				return false, ipam.Refuse(ipam.GatewayInvalid, "annotation %s%s of %s is %q, but can only be %q: correct it, or set the gateway of the device itself",
					ipam.GatewayAnnotationPrefix, key, by.Name, text, ipam.NoGateway)
			default:
				return true, nil
			}
		}
	}
	return false, nil
}

// label is the label by which the asker asks for all devices, empty if it has none.
func (a Asker) label() string {
	for _, label := range []string{PoolNameLabel, poolGroupLabel, networkNameLabel} {
		if a.GetLabels()[label] != "" {
			return label
		}
	}
	return ""
}

// AsksForPool tells whether the asker asks for a pool at all, even wrongly.
func (a Asker) AsksForPool() bool {
	if a.label() != "" {
		return true
	}
	for name := range a.GetAnnotations() {
		if strings.HasPrefix(name, ipam.PoolsAnnotationPrefix) {
			return true
		}
	}
	return false
}

// AnswersFor tells whether the asker has an answer, right or wrong, for each
// device of the machine that waits for one.
func (a Asker) AnswersFor(m *Machine) bool {
	for i, d := range m.Spec.Network.Devices {
		if !Eligible(d) {
			continue
		}
		if found, err := a.ask(DeviceOf(d, i)); found == nil && err == nil {
			return false
		}
	}
	return true
}

// firstAsk is the first answer for a device, nil if nobody asks for it.
func firstAsk(asked []Asker, device ipam.Device) (*Ask, error) {
	for _, by := range asked {
		found, err := by.ask(device)
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}

// keysOf are the names that a device goes by in an annotation. The index cannot
// be mistaken, so it comes first.
func keysOf(device ipam.Device) []string {
	keys := []string{strconv.Itoa(device.Index)}
	if device.DeviceName != "" {
		keys = append(keys, device.DeviceName)
	}
	return keys
}
