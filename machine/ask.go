package machine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
)

// PoolNameLabel on a machine, or on the template it was cloned from, names
// the pool of all its eligible devices: the metal3 IPPool of that name in the
// machine's namespace or, if there is none, the InClusterIPPool. The labels of
// ipam.PoolLabels stand for all pools that bear the same.
const PoolNameLabel = "cluster.x-k8s.io/ip-pool-name"

// Asker is metadata that may ask for pools: the machine's own, or its template's.
type Asker struct {
	metav1.Object
	// Name is how a sentence names it.
	Name string
	// ForMany says that it is not about this machine, nor about machines of its shape: it
	// may ask for devices that this one does not have.
	ForMany bool
}

// Ask is what an asker wants for a device, one of its addresses at a time.
type Ask struct {
	ipam.Ask
	// From is whose label it is, nil if it is an annotation for just this device.
	From *Asker
}

// answer is what one asker says about one device.
type answer struct {
	Expression
	by   string
	from *Asker
}

// asks are the asks of a device that the answer is for.
func (a *answer) asks(device ipam.Device, noGateway bool) []Ask {
	asks := make([]Ask, len(a.Expression))
	for nth, choices := range a.Expression {
		asks[nth] = Ask{From: a.from, Ask: ipam.Ask{Device: device, Nth: nth, Choices: choices, AskedBy: a.by, NoGateway: noGateway}}
	}
	return asks
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
		device := DeviceOf(d, i)
		found, err := firstAnswer(asked, device)
		if err != nil {
			return nil, nil, err
		}
		if found == nil {
			warnings = append(warnings, fmt.Sprintf("device %d has no source of addresses: "+
				"set dhcp4 or ipAddrs, or name a pool with label %s or annotation %s%d", i, PoolNameLabel, ipam.PoolsAnnotationPrefix, i))
			continue
		}
		noGateway, err := refusesGateway(asked, device)
		if err != nil {
			return nil, nil, err
		}
		asks = append(asks, found.asks(device, noGateway)...)
		if err := checkCount(found, i, asks); err != nil {
			return nil, nil, err
		}
	}
	return asks, warnings, nil
}

// checkCount refuses what is more than the bindings of one machine can hold, or more
// choices than are looked at for one.
func checkCount(found *answer, device int, asks []Ask) error {
	count, choices := len(asks), 0
	for _, ask := range asks {
		choices += len(ask.Choices)
	}
	switch {
	case device >= ipam.MaxDevices:
		return ipam.Refuse(ipam.DeviceNotFound, "%s asks for an address for device %d, but only the first %d devices of a machine are given one: "+
			"remove the others, or give them addresses of their own", found.by, device, ipam.MaxDevices)
	case count > ipam.MaxDevices:
		return ipam.Refuse(ipam.PoolNameInvalid, "%s asks for the %dth address of the machine, which is given %d at most: ask for fewer", found.by, count, ipam.MaxDevices)
	case choices > maxMachineChoices:
		return ipam.Refuse(ipam.PoolNameInvalid, "%s has the last of %d choices of pools for the machine, of which %d are looked at: name fewer", found.by, choices, maxMachineChoices)
	}
	return nil
}

// answer is what the asker wants for the device: its annotation for just this
// device, or else its labels for all. It is nil if the asker wants nothing.
func (a Asker) answer(device ipam.Device) (*answer, error) {
	for _, key := range keysOf(device) {
		if found, err := a.annotated(key); found != nil || err != nil {
			return found, err
		}
	}
	return a.labelled(), nil
}

// annotated is what the asker wants for just this device, nil if it says nothing of it.
func (a Asker) annotated(device string) (*answer, error) {
	text, ok := a.GetAnnotations()[ipam.PoolsAnnotationPrefix+device]
	if !ok {
		return nil, nil
	}
	by := fmt.Sprintf("annotation %s%s of %s", ipam.PoolsAnnotationPrefix, device, a.Name)
	expression, err := parseExpression(text)
	if err != nil {
		return nil, ipam.Refuse(ipam.PoolNameInvalid, "%s %s", by, err)
	}
	return &answer{Expression: expression, by: by}, nil
}

// labelled is what the asker wants by its labels, nil if it has none.
func (a Asker) labelled() *answer {
	switch labels := a.labels(); {
	case len(labels) == 0:
		return nil
	case labels[0] == PoolNameLabel:
		pool := ipam.PoolReference{Name: a.GetLabels()[PoolNameLabel]}
		return &answer{Expression: Expression{{{Pool: pool}}}, by: fmt.Sprintf("label %s of %s", PoolNameLabel, a.Name), from: &a}
	default:
		return &answer{Expression: Expression{{{Labels: ipam.LabelsOf(a)}}}, by: "labels of " + a.Name, from: &a}
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

// labels are those by which the asker asks for all devices: the pool's name, or else
// labels of pools.
func (a Asker) labels() []string {
	if a.GetLabels()[PoolNameLabel] != "" {
		return []string{PoolNameLabel}
	}
	return slices.Sorted(maps.Keys(ipam.LabelsOf(a).Set()))
}

// AsksForPool tells whether the asker asks for a pool at all, even wrongly.
func (a Asker) AsksForPool() bool {
	if len(a.labels()) > 0 {
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
		if found, err := a.answer(DeviceOf(d, i)); found == nil && err == nil {
			return false
		}
	}
	return true
}

// firstAnswer is the first answer for a device, nil if nobody asks for it.
func firstAnswer(asked []Asker, device ipam.Device) (*answer, error) {
	for _, by := range asked {
		found, err := by.answer(device)
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
