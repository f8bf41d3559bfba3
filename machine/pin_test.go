package machine

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
)

// twoBound are the bindings of a machine with two devices, both bound, with everything injected.
func twoBound() ipam.Bindings {
	both := boundDevice(0, func(b *ipam.Binding) {
		b.Gateway = netip.MustParseAddr("10.0.0.254")
		b.Nameservers = []string{"10.0.0.53"}
		b.SearchDomains = []string{"example"}
	})
	second := boundDevice(1, func(b *ipam.Binding) { b.Address = netip.MustParsePrefix("10.0.1.1/24") })
	both.Bindings = append(both.Bindings, second.Bindings...)
	return both
}

const (
	first = `{"networkName":"a","ipAddrs":["10.0.0.1/24"],"gateway4":"10.0.0.254","nameservers":["10.0.0.53"],"searchDomains":["example"]}`
	other = `{"networkName":"b","ipAddrs":["10.0.1.1/24"]}`
)

func machineWith(t *testing.T, metadata, devices string) (string, *Machine) {
	t.Helper()
	raw := fmt.Sprintf(`{"metadata":{"name":"cp"%s},"spec":{"network":{"devices":[%s]}}}`, metadata, devices)
	m, err := Decode([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return raw, m
}

// marks is the metadata that holds the bindings.
func marks(t *testing.T) string {
	t.Helper()
	text, err := twoBound().Encode()
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`,"annotations":{%q:%s},"finalizers":[%q]`, ipam.BindingsAnnotation, quoted, ipam.ReleaseFinalizer)
}

func TestUpdateOfABoundMachine(t *testing.T) {
	tests := map[string]pinning{
		"leaves everything": {devices: first + "," + other, want: first + "," + other},
		"drops all that was injected": {
			devices: `{"networkName":"a"},{"networkName":"b"}`, want: first + "," + other},
		"changes the address": {
			devices: `{"networkName":"a","ipAddrs":["10.9.9.9/8"]},` + other, want: first + "," + other},
		"swaps the addresses of like devices": {
			devices: `{"networkName":"a","ipAddrs":["10.0.1.1/24"]},{"networkName":"b","ipAddrs":["10.0.0.1/24"]}`,
			denied:  "device 0 has lost its address to device 1"},
		"drops the address and brings a gateway": {
			devices: `{"networkName":"a","gateway4":"10.0.0.253"},` + other,
			want:    `{"networkName":"a","ipAddrs":["10.0.0.1/24"],"gateway4":"10.0.0.253","nameservers":["10.0.0.53"],"searchDomains":["example"]},` + other},
		"changes name servers but no address": {
			devices: `{"networkName":"a","ipAddrs":["10.0.0.1/24"],"nameservers":["10.0.0.54"]},` + other,
			want:    `{"networkName":"a","ipAddrs":["10.0.0.1/24"],"nameservers":["10.0.0.54"]},` + other},
		"adds an address": {
			devices: `{"networkName":"a","ipAddrs":["10.0.0.1/24","10.0.0.99/24"]},` + other,
			want:    `{"networkName":"a","ipAddrs":["10.0.0.1/24","10.0.0.99/24"]},` + other},
		"adds a device":         {devices: first + "," + other + `,{"networkName":"c"}`, want: first + "," + other + `,{"networkName":"c"}`},
		"removes a device":      {devices: first, denied: "device 1 is gone, but holds 10.0.1.1/24"},
		"reorders devices":      {devices: other + "," + first, denied: "device 0 has another networkName, but holds 10.0.0.1/24"},
		"renames a device":      {devices: first + `,{"networkName":"b","deviceName":"eth9"}`, denied: "device 1 has another deviceName"},
		"changes a MAC address": {devices: first + `,{"networkName":"b","macAddr":"00:50:56:00:00:01"}`, denied: "device 1 has another macAddr"},
		"adds DHCP":             {devices: first + `,{"networkName":"b","dhcp6":true}`, denied: "device 1 gains DHCP"},
		"adds CAPV's own pools": {devices: first + `,{"networkName":"b","addressesFromPools":[{"name":"p","kind":"k","apiGroup":"g"}]}`,
			denied: "device 1 gains addressesFromPools"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test.check(t, first+","+other) })
	}
}

// A webhook behind ours put a device before those that were bound.
func TestDeviceIsFoundByItsAddress(t *testing.T) {
	const dhcp = `{"networkName":"c","dhcp4":true},`
	for name, test := range map[string]pinning{
		"drops all that was injected": {devices: dhcp + `{"networkName":"a"},{"networkName":"b"}`, want: dhcp + first + "," + other},
		"changes the prefix length":   {devices: dhcp + `{"networkName":"a","ipAddrs":["10.0.0.1/8"]},` + other, want: dhcp + `{"networkName":"a","ipAddrs":["10.0.0.1/24"],"gateway4":"10.0.0.254","nameservers":["10.0.0.53"],"searchDomains":["example"]},` + other},
		"removes the device before":   {devices: first + "," + other, denied: "device 1 has another networkName, but holds 10.0.0.1/24"},
		"moves the address away":      {devices: `{"networkName":"c","ipAddrs":["10.0.0.1/8"]},{"networkName":"a"},` + other, denied: "device 1 has lost its address to device 0"},
	} {
		t.Run(name, func(t *testing.T) { test.check(t, dhcp+first+","+other) })
	}
}

// A user may put addresses of his own beside the bound one. They stay his: only the
// bound one is put back.
func TestUpdateOfADeviceWithAFurtherAddressOfItsUser(t *testing.T) {
	const rest = `,"gateway4":"10.0.0.254","nameservers":["10.0.0.53"],"searchDomains":["example"]},` + other
	devices := func(addresses string) string { return `{"networkName":"a","ipAddrs":[` + addresses + `]` + rest }
	const ours, own, owns = `"10.0.0.1/24"`, `"10.0.0.98/24"`, `"10.0.0.99/24"`
	for name, test := range map[string]struct{ before, after, want string }{
		"leaves both":                                     {ours + "," + own, ours + "," + own, ours + "," + own},
		"changes the order":                               {ours + "," + own, own + "," + ours, own + "," + ours},
		"changes his own":                                 {ours + "," + own, ours + "," + owns, ours + "," + owns},
		"removes his own":                                 {ours + "," + own, ours, ours},
		"removes the bound one":                           {ours + "," + own, own, ours + "," + own},
		"removes the bound one from the end":              {own + "," + ours, own, own + "," + ours},
		"removes the bound one and changes his own":       {ours + "," + own, owns, ours + "," + owns},
		"removes both":                                    {ours + "," + own, "", ours},
		"removes both, the bound one from the end":        {own + "," + ours, "", ours},
		"changes the bound one":                           {ours + "," + own, `"10.9.9.9/8",` + own, ours + "," + own},
		"changes both":                                    {ours + "," + own, `"10.9.9.9/8",` + owns, ours + "," + owns},
		"changes the bound one at the end":                {own + "," + ours, own + `,"10.9.9.9/8"`, own + "," + ours},
		"changes the bound one's prefix length and order": {ours + "," + own, own + `,"10.0.0.1/8"`, own + "," + ours},
		"puts another of his own in its place":            {ours + "," + own, own + "," + owns, ours + "," + own + "," + owns},
	} {
		t.Run(name, func(t *testing.T) {
			pinning{devices: devices(test.after), want: devices(test.want)}.check(t, devices(test.before))
		})
	}
}

func TestBothBoundAddressesOfOneDeviceArePutBack(t *testing.T) {
	const both = `{"networkName":"a","ipAddrs":["10.0.0.1/24","10.0.1.1/24"],"gateway4":"10.0.0.254","nameservers":["10.0.0.53"],"searchDomains":["example"]}`
	pinning{devices: `{"networkName":"a"}`, want: both}.check(t, both)
}

// pinning is an update of the devices of a bound machine: what they become, or why
// it is denied.
type pinning struct{ devices, want, denied string }

// check makes the update of a machine that has these devices.
func (p pinning) check(t *testing.T, had string) {
	t.Helper()
	_, before := machineWith(t, marks(t), had)
	raw, after := machineWith(t, marks(t), p.devices)
	doc, err := decodeDocument([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Pin(before, after, twoBound().Bindings, doc)
	if p.denied != "" {
		wantRefusal(t, err, ipam.DevicePinned, p.denied)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	wantRaw, _ := machineWith(t, marks(t), p.want)
	want, err := decodeDocument([]byte(wantRaw))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := mustMarshal(t, doc), mustMarshal(t, want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUpdateThatDropsTheMarksGetsThemBack(t *testing.T) {
	_, before := machineWith(t, marks(t), first+","+other)
	raw, after := machineWith(t, "", `{"networkName":"a"},{"networkName":"b"}`)
	doc, err := decodeDocument([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pin(before, after, twoBound().Bindings, doc); err != nil {
		t.Fatal(err)
	}
	wantRaw, _ := machineWith(t, marks(t), first+","+other)
	want, _ := decodeDocument([]byte(wantRaw))
	if got, want := mustMarshal(t, doc), mustMarshal(t, want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUpdateOfAMachineThatGoesGetsNoFinalizer(t *testing.T) {
	for name, metadata := range map[string]string{
		"being deleted": `,"deletionTimestamp":"2026-01-01T00:00:00Z"`,
		"being moved":   `,"annotations":{"clusterctl.cluster.x-k8s.io/delete-for-move":""}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, marks(t), first+","+other)
			raw, after := machineWith(t, metadata, first+","+other)
			doc, err := decodeDocument([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			unchanged := mustMarshal(t, doc)
			if _, err := Pin(before, after, twoBound().Bindings, doc); err != nil {
				t.Fatal(err)
			}
			if got := mustMarshal(t, doc); got != unchanged {
				t.Errorf("got  %s\nwant %s", got, unchanged)
			}
		})
	}
}

func mustMarshal(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func wantRefusal(t *testing.T, err error, reason ipam.Reason, text string) {
	t.Helper()
	refusal, ok := ipam.AsRefusal(err)
	if !ok || refusal.Reason != reason || !strings.Contains(refusal.Message, text) {
		t.Errorf("got %v, want a refusal %s with %q", err, reason, text)
	}
}

// Of a device's addresses each is pinned for itself, whatever an update takes.
func TestUpdateOfADeviceWithTwoAddresses(t *testing.T) {
	bindings := ipam.Bindings{Machine: "cp", Bindings: dualStack()}
	for name, devices := range map[string]string{
		"drops one":                       `{"gateway4":"10.0.0.254","gateway6":"fd00::fe","ipAddrs":["fd00::1/64"],"nameservers":["10.0.0.53","fd00::53","fd00::54"],"searchDomains":["a","b"]}`,
		"drops the other and its gateway": `{"gateway4":"10.0.0.254","ipAddrs":["10.0.0.1/24"],"nameservers":["10.0.0.53"]}`,
		"drops both":                      `{}`,
		"changes one":                     `{"gateway4":"10.0.0.254","gateway6":"fd00::fe","ipAddrs":["10.0.0.9/24","fd00::1/64"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, "", dualStackDevice)
			raw, after := machineWith(t, "", devices)
			var device map[string]any
			_, err := PatchFor([]byte(raw), func(doc Document) error {
				if _, err := Pin(before, after, bindings.Bindings, doc); err != nil {
					return err
				}
				var err error
				device, err = doc.device(0)
				return err
			})
			got, _ := json.Marshal(device)
			if err != nil || string(got) != dualStackDevice {
				t.Errorf("got  %s, error %v\nwant %s", got, err, dualStackDevice)
			}
		})
	}
}
