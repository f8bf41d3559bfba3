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
	// machine's namespace or, if there is none, the InClusterIPPool.
	PoolNameLabel = "cluster.x-k8s.io/ip-pool-name"

	// poolGroupLabel and networkNameLabel are how the static IP adapters select a
	// pool by the labels that it carries.
	poolGroupLabel   = "cluster.x-k8s.io/ip-pool-group"
	networkNameLabel = "cluster.x-k8s.io/network-name"
)

// Asker is metadata that may ask for pools: the machine's own, or its template's.
type Asker struct {
	metav1.Object
	// name is how a sentence names it.
	Name string
}

// Ask is one way in which an asker names a pool.
type Ask struct {
	Pool ipam.PoolReference
	// by says where it is written, for a denial that can be acted upon.
	By string
	// from is whose label it is, nil if it is an annotation for just this device.
	From *Asker
}

// Ask is what the asker wants for the device: its annotation for just this
// device, or else its label for all.
func (a Asker) Ask(device ipam.Device) (*Ask, error) {
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
		return &Ask{Pool: pool, By: by}, nil
	}
	switch label := a.label(); label {
	case "":
		return nil, nil
	case PoolNameLabel:
		name := a.GetLabels()[label]
		return &Ask{Pool: ipam.PoolReference{Name: name}, By: fmt.Sprintf("label %s of %s", label, a.Name), From: &a}, nil
	default:
		return nil, ipam.Refuse(ipam.PoolNotNamed, "label %s of %s selects a pool by the labels of the pool, which is not supported: "+
			"name the pool there, in label %s or annotation %s%d", label, a.Name, PoolNameLabel, ipam.PoolsAnnotationPrefix, device.Index)
	}
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

// Asks tells whether the asker asks for anything at all, be it wrongly.
func (a Asker) Asks() bool {
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

// AnswersFor tells whether the asker has an answer, be it a wrong one, for each
// device of the machine that waits for one.
func (a Asker) AnswersFor(m *Machine) bool {
	for i, d := range m.Spec.Network.Devices {
		if !Eligible(d) {
			continue
		}
		if found, err := a.Ask(DeviceOf(d, i)); found == nil && err == nil {
			return false
		}
	}
	return true
}

// FirstAsk is the first answer for a device, nil if nobody asks for it.
func FirstAsk(asked []Asker, device ipam.Device) (*Ask, error) {
	for _, by := range asked {
		found, err := by.Ask(device)
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
