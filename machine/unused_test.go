package machine

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
)

func deviceFrom(t *testing.T, text string) infrav1.NetworkDeviceSpec {
	t.Helper()
	var d infrav1.NetworkDeviceSpec
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDeviceThatHasIPv6AloneFromElsewhere(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                                 "",
		`{"dhcp4":true}`:                                     "",
		`{"dhcp6":true}`:                                     "DHCP for IPv6",
		`{"dhcp4":false,"dhcp6":true}`:                       "DHCP for IPv6",
		`{"dhcp4":true,"dhcp6":true}`:                        "",
		`{"ipAddrs":["10.0.0.1/24"]}`:                        "",
		`{"ipAddrs":["2001:db8::1/64"]}`:                     "IPv6 addresses",
		`{"ipAddrs":["::ffff:10.0.0.1"]}`:                    "",
		`{"ipAddrs":["2001:db8::1/64","10.0.0.1/24"]}`:       "",
		`{"dhcp6":true,"ipAddrs":["10.0.0.1/24"]}`:           "",
		`{"dhcp6":true,"skipIPAllocation":true}`:             "",
		`{"dhcp6":true,"addressesFromPools":[{"name":"p"}]}`: "",
	} {
		if got := onlyIPv6(deviceFrom(t, text)); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestDefaultRoutesOfOneFamily(t *testing.T) {
	route := func(index int, gateway string) ipam.Binding {
		return ipam.Binding{Device: ipam.Device{Index: index}, Gateway: netip.MustParseAddr(gateway)}
	}
	none := func(index int) ipam.Binding { return ipam.Binding{Device: ipam.Device{Index: index}} }
	const both = `devices 0 (networkName "a") and 1 (networkName "b", deviceName "eth1") each get a default route for `
	const remedy = `: for all but one of them name a pool without a gateway, or set annotation gateway.capv-static-ip.dev/<device> to "none"`
	for name, test := range map[string]struct {
		first, second string
		injected      []ipam.Binding
		want          []string
	}{
		"of one device":              {injected: []ipam.Binding{route(0, "10.0.0.254"), none(1)}},
		"of both":                    {injected: []ipam.Binding{route(0, "10.0.0.254"), route(1, "10.0.1.254")}, want: []string{both + "IPv4" + remedy}},
		"of both, IPv6":              {injected: []ipam.Binding{route(0, "fd00::1"), route(1, "fd00::1")}, want: []string{both + "IPv6" + remedy}},
		"of different families":      {injected: []ipam.Binding{route(0, "10.0.0.254"), route(1, "fd00::1")}},
		"of which one is the user's": {first: `"gateway4":"10.0.0.1",`, injected: []ipam.Binding{route(1, "10.0.1.254")}, want: []string{both + "IPv4" + remedy}},
		"that are the user's own":    {first: `"gateway4":"10.0.0.1",`, second: `"gateway4":"10.0.1.1",`, injected: []ipam.Binding{route(0, "10.0.0.254"), route(1, "10.0.1.254")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", `{`+test.first+`"networkName":"a"},{`+test.second+`"networkName":"b","deviceName":"eth1"}`)
			if got := DefaultRoutes(m, test.injected); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestListOfDevicesIsBounded(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"a"}`)
	for range 20 {
		m.Spec.Network.Devices = append(m.Spec.Network.Devices, m.Spec.Network.Devices[0])
	}
	const want = `it has 0 (networkName "a"), 1 (networkName "a"), 2 (networkName "a"), 3 (networkName "a"), 4 (networkName "a"), ` +
		`5 (networkName "a"), 6 (networkName "a"), 7 (networkName "a"), 8 (networkName "a"), 9 (networkName "a") and 11 more`
	if got := m.devices(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
