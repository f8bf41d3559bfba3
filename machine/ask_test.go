package machine

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// twoDevices is a machine whose second device has a name.
const twoDevices = `{"networkName":"a"},{"networkName":"b","deviceName":"eth1"}`

// asker is the machine's own metadata, or its template's, with these
// labels and annotations.
func asker(name string, labels, annotations map[string]string) Asker {
	return Asker{Object: &metav1.ObjectMeta{Labels: labels, Annotations: annotations}, Name: name}
}

func annotatedAsker(name string, annotations map[string]string) Asker {
	return asker(name, nil, annotations)
}

func labelled(name, pool string) Asker {
	return asker(name, map[string]string{PoolNameLabel: pool}, nil)
}

// askedFor is how a test writes what is asked for: the device, the pool, and whether the
// gateway is refused.
func askedFor(asks []Ask) string {
	var texts []string
	for _, ask := range asks {
		text := fmt.Sprintf("%s:%s", ask.Slot(), Expression{ask.Choices})
		if ask.NoGateway {
			text += " without gateway"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func TestDevicesAskForThePoolThatIsNamedFirst(t *testing.T) {
	const pools, gateway = ipam.PoolsAnnotationPrefix, ipam.GatewayAnnotationPrefix
	for name, test := range map[string]struct {
		asked    []Asker
		want     string
		warnings int
	}{
		"a label asks for all":                 {[]Asker{labelled("machine", "p")}, "0:p, 1:p", 0},
		"an annotation asks for one":           {[]Asker{annotatedAsker("machine", map[string]string{pools + "1": "p"})}, "1:p", 1},
		"an annotation names the device":       {[]Asker{annotatedAsker("machine", map[string]string{pools + "eth1": "p"})}, "1:p", 1},
		"the index comes before the name":      {[]Asker{annotatedAsker("machine", map[string]string{pools + "eth1": "p", pools + "1": "q"})}, "1:q", 1},
		"an annotation comes before the label": {[]Asker{asker("machine", map[string]string{PoolNameLabel: "p"}, map[string]string{pools + "1": "q"})}, "0:p, 1:q", 0},
		"the machine comes before its template": {[]Asker{
			labelled("machine", "p"), annotatedAsker("template", map[string]string{pools + "1": "q"}),
		}, "0:p, 1:p", 0},
		"the template asks for the rest": {[]Asker{
			annotatedAsker("machine", map[string]string{pools + "1": "q"}), labelled("template", "p"),
		}, "0:p, 1:q", 0},
		"nobody asks":                     {nil, "", 2},
		"a list asks for an address each": {[]Asker{annotatedAsker("machine", map[string]string{pools + "0": "p, q|IPPool/r"})}, "0:p, 0.1:q|IPPool/r", 1},
		"labels ask for pools that bear them": {
			[]Asker{asker("machine", map[string]string{ipam.PoolGroupLabel: "g", ipam.NetworkNameLabel: "n"}, nil)}, "0:@g, 1:@g", 0,
		},
		"a name comes before the labels of pools": {
			[]Asker{asker("machine", map[string]string{ipam.PoolGroupLabel: "g", PoolNameLabel: "p"}, nil)}, "0:p, 1:p", 0,
		},
		"an empty label asks for nothing": {
			[]Asker{asker("machine", map[string]string{ipam.PoolGroupLabel: "", PoolNameLabel: ""}, nil), labelled("template", "p")}, "0:p, 1:p", 0,
		},
		"labels of machine and template are not mixed": {
			[]Asker{asker("machine", map[string]string{ipam.PoolGroupLabel: "g"}, nil), labelled("template", "p")}, "0:@g, 1:@g", 0,
		},
		"a device refuses its gateway": {[]Asker{
			labelled("machine", "p"), annotatedAsker("template", map[string]string{gateway + "eth1": ipam.NoGateway}),
		}, "0:p, 1:p without gateway", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", twoDevices)
			asks, warnings, err := m.Asks(test.asked)
			if err != nil || askedFor(asks) != test.want || len(warnings) != test.warnings {
				t.Errorf("got %s, warnings %q and error %v, want %s and %d warnings", askedFor(asks), warnings, err, test.want, test.warnings)
			}
		})
	}
}

func TestRequestThatCannotBeServedIsRefused(t *testing.T) {
	annotated := func(key, value string) []Asker {
		return []Asker{annotatedAsker("the machine", map[string]string{key: value})}
	}
	for name, test := range map[string]struct {
		asked   []Asker
		devices string
		reason  ipam.Reason
		text    string
	}{
		"an empty part": {annotated(ipam.PoolsAnnotationPrefix+"0", "p,,q"), twoDevices, ipam.PoolNameInvalid, "empty part"},
		"more addresses than one device is given": {
			annotated(ipam.PoolsAnnotationPrefix+"0", "p"+strings.Repeat(",p", maxAddresses)), twoDevices, ipam.PoolNameInvalid, "asks for 9 addresses for one device",
		},
		"more addresses than one machine is given": {
			[]Asker{annotatedAsker("the machine", everyDevice(9, "p"+strings.Repeat(",p", maxAddresses-1)))}, strings.Repeat(`{"networkName":"a"},`, 8) + `{"networkName":"a"}`,
			ipam.PoolNameInvalid, "64 at most",
		},
		"more choices than are looked at for one machine": {
			[]Asker{annotatedAsker("the machine", everyDevice(9, "p"+strings.Repeat("|p", maxChoices-1)))}, strings.Repeat(`{"networkName":"a"},`, 8) + `{"networkName":"a"}`,
			ipam.PoolNameInvalid, "128 are looked at",
		},
		"no reference":         {annotated(ipam.PoolsAnnotationPrefix+"0", "a/b/c"), twoDevices, ipam.PoolNameInvalid, "the machine"},
		"a device that is not": {annotated(ipam.PoolsAnnotationPrefix+"2", "p"), twoDevices, ipam.DeviceNotFound, "does not have"},
		"a gateway that is one": {[]Asker{
			labelled("the machine", "p"), annotatedAsker("its template", map[string]string{ipam.GatewayAnnotationPrefix + "0": "10.0.0.1"}),
		}, twoDevices, ipam.GatewayInvalid, "its template"},
		"more devices than are served": {
			[]Asker{labelled("the machine", "p")}, strings.Repeat(`{"networkName":"a"},`, ipam.MaxDevices) + `{"networkName":"a"}`, ipam.DeviceNotFound, "only the first",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", test.devices)
			_, _, err := m.Asks(test.asked)
			wantRefusal(t, err, test.reason, test.text)
		})
	}
}

// everyDevice are the annotations that ask the same for each of so many devices.
func everyDevice(devices int, text string) map[string]string {
	annotations := map[string]string{}
	for i := range devices {
		annotations[ipam.PoolsAnnotationPrefix+strconv.Itoa(i)] = text
	}
	return annotations
}

func TestDeviceWithAddressesOfItsOwnAsksForNone(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"a","dhcp4":true},{"networkName":"b"}`)
	asks, warnings, err := m.Asks([]Asker{labelled("machine", "p")})
	if err != nil || askedFor(asks) != "1:p" || len(warnings) > 0 {
		t.Errorf("got %s, warnings %q and error %v, want 1:p", askedFor(asks), warnings, err)
	}
}

// heldBy is the binding of an earlier call for the same create, for the first address
// of the device or, by the name of its claim, a further one.
func heldBy(slot ipam.Slot, ip string) ipam.Binding {
	return ipam.Binding{
		Device: ipam.Device{Index: slot.Device}, Pool: metal3.PoolNamed("p"), Claim: ipam.ClaimName("cp", slot), Address: netip.MustParsePrefix(ip),
	}
}

func askOf(device, nth int) ipam.Ask {
	return ipam.Ask{Device: ipam.Device{Index: device}, Nth: nth}
}

// Where two addresses share a host name, some providers give both the same.
func TestEachNewAskHasAHostNameOfItsOwn(t *testing.T) {
	for name, test := range map[string]struct {
		held  []ipam.Binding
		asks  []ipam.Ask
		hosts []string
	}{
		"the first":             {nil, []ipam.Ask{askOf(1, 0)}, []string{"cp"}},
		"two":                   {nil, []ipam.Ask{askOf(0, 0), askOf(1, 0)}, []string{"cp", "cp-1"}},
		"two of one device":     {nil, []ipam.Ask{askOf(0, 0), askOf(0, 1)}, []string{"cp", "cp-0-1"}},
		"one beside a held one": {[]ipam.Binding{heldBy(ipam.Slot{}, "10.0.0.1/24")}, []ipam.Ask{askOf(1, 0)}, []string{"cp-1"}},
		"none":                  {[]ipam.Binding{heldBy(ipam.Slot{}, "10.0.0.1/24")}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", twoDevices)
			m.Held = test.held
			fresh, dropped, err := m.NewAsks(test.asks)
			var hosts []string
			for _, ask := range fresh {
				hosts = append(hosts, ask.Host)
			}
			if err != nil || len(dropped) > 0 || !slices.Equal(hosts, test.hosts) {
				t.Errorf("got hosts %q, dropped %v and error %v, want %q", hosts, dropped, err, test.hosts)
			}
		})
	}
}

func TestBindingWhoseDeviceWantsItsAddressBackIsDropped(t *testing.T) {
	for name, test := range map[string]struct {
		devices string
		asks    []ipam.Ask
		held    []ipam.Binding
	}{
		"a device without addresses": {twoDevices, []ipam.Ask{askOf(0, 0)}, []ipam.Binding{heldBy(ipam.Slot{}, "10.0.0.1/24")}},
		"a device that has kept another address": {
			`{"networkName":"a","ipAddrs":["10.0.0.2/24"]}`, nil,
			[]ipam.Binding{heldBy(ipam.Slot{}, "10.0.0.1/24"), heldBy(ipam.Slot{Nth: 1}, "10.0.0.2/24")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", test.devices)
			m.Held = test.held
			fresh, dropped, err := m.NewAsks(test.asks)
			if err != nil || len(fresh) > 0 || len(dropped) != 1 || dropped[0].Address != test.held[0].Address {
				t.Errorf("got asks %v, dropped %v and error %v, want the first binding dropped", fresh, dropped, err)
			}
		})
	}
}

func TestAskOfADeviceWhoseBindingWentElsewhereIsRefused(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"a"},{"networkName":"b","ipAddrs":["10.0.0.1/24"]}`)
	m.Held = []ipam.Binding{heldBy(ipam.Slot{}, "10.0.0.1/24")}
	_, _, err := m.NewAsks([]ipam.Ask{askOf(0, 0)})
	wantRefusal(t, err, ipam.DevicePinned, "device 0")
}
