package machine

import (
	"fmt"
	"net/netip"
	"slices"
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
		text := fmt.Sprintf("%d:%s", ask.Device.Index, ask.Pool.Name)
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
		"nobody asks": {nil, "", 2},
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
		"several pools":            {annotated(ipam.PoolsAnnotationPrefix+"0", "p,q"), twoDevices, ipam.PoolNameInvalid, "several pools"},
		"no reference":             {annotated(ipam.PoolsAnnotationPrefix+"0", "a/b/c"), twoDevices, ipam.PoolNameInvalid, "the machine"},
		"a device that is not":     {annotated(ipam.PoolsAnnotationPrefix+"2", "p"), twoDevices, ipam.DeviceNotFound, "does not have"},
		"a pool by its own labels": {[]Asker{asker("the machine", map[string]string{poolGroupLabel: "g"}, nil)}, twoDevices, ipam.PoolNotNamed, poolGroupLabel},
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

func TestDeviceWithAddressesOfItsOwnAsksForNone(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"a","dhcp4":true},{"networkName":"b"}`)
	asks, warnings, err := m.Asks([]Asker{labelled("machine", "p")})
	if err != nil || askedFor(asks) != "1:p" || len(warnings) > 0 {
		t.Errorf("got %s, warnings %q and error %v, want 1:p", askedFor(asks), warnings, err)
	}
}

// heldBy is the binding of an earlier call for the same create.
func heldBy(device int, ip string) ipam.Binding {
	return ipam.Binding{Device: ipam.Device{Index: device}, Pool: metal3.PoolNamed("p"), Address: netip.MustParsePrefix(ip)}
}

func wantOf(device int, pool string) ipam.Want {
	return ipam.Want{Device: ipam.Device{Index: device}, Pool: metal3.PoolNamed(pool)}
}

// Where two addresses share a host name, some providers give both the same.
func TestEachNewWantHasAHostNameOfItsOwn(t *testing.T) {
	for name, test := range map[string]struct {
		held  []ipam.Binding
		wants []ipam.Want
		hosts []string
	}{
		"the first":             {nil, []ipam.Want{wantOf(1, "p")}, []string{"cp"}},
		"two":                   {nil, []ipam.Want{wantOf(0, "p"), wantOf(1, "p")}, []string{"cp", "cp-1"}},
		"one beside a held one": {[]ipam.Binding{heldBy(0, "10.0.0.1/24")}, []ipam.Want{wantOf(1, "p")}, []string{"cp-1"}},
		"none":                  {[]ipam.Binding{heldBy(0, "10.0.0.1/24")}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", twoDevices)
			m.Held = test.held
			fresh, dropped, err := m.NewWants(test.wants)
			var hosts []string
			for _, want := range fresh {
				hosts = append(hosts, want.Host)
			}
			if err != nil || len(dropped) > 0 || !slices.Equal(hosts, test.hosts) {
				t.Errorf("got hosts %q, dropped %v and error %v, want %q", hosts, dropped, err, test.hosts)
			}
		})
	}
}

func TestBindingWhoseDeviceWantsItsAddressBackIsDropped(t *testing.T) {
	_, m := machineWith(t, "", twoDevices)
	m.Held = []ipam.Binding{heldBy(0, "10.0.0.1/24")}
	fresh, dropped, err := m.NewWants([]ipam.Want{wantOf(0, "p")})
	if err != nil || len(fresh) > 0 || len(dropped) != 1 || dropped[0].Device.Index != 0 {
		t.Errorf("got wants %v, dropped %v and error %v, want the binding dropped", fresh, dropped, err)
	}
}

func TestWantOfADeviceWhoseBindingWentElsewhereIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		devices string
		pool    string
	}{
		"its address is on another device": {`{"networkName":"a"},{"networkName":"b","ipAddrs":["10.0.0.1/24"]}`, "p"},
		"it wants another pool":            {twoDevices, "q"},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", test.devices)
			m.Held = []ipam.Binding{heldBy(0, "10.0.0.1/24")}
			_, _, err := m.NewWants([]ipam.Want{wantOf(0, test.pool)})
			wantRefusal(t, err, ipam.DevicePinned, "device 0")
		})
	}
}
