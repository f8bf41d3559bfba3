package machine

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gomodules.xyz/jsonpatch/v2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

func boundDevice(index int, change func(*ipam.Binding)) ipam.Bindings {
	b := ipam.Binding{
		Device:  ipam.Device{Index: index},
		Pool:    metal3.PoolNamed("pool"),
		Claim:   ipam.ClaimName("cp", ipam.Slot{Device: index}),
		Address: netip.MustParsePrefix("10.0.0.1/24"),
	}
	if change != nil {
		change(&b)
	}
	return ipam.Bindings{Machine: "cp", Bindings: []ipam.Binding{b}}
}

func patchOf(t *testing.T, raw string, bindings ipam.Bindings) []jsonpatch.Operation {
	t.Helper()
	patch, err := PatchFor([]byte(raw), func(doc Document) error { return Inject(doc, bindings.Bindings, bindings) })
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(patch, func(a, b jsonpatch.Operation) int { return strings.Compare(a.Path, b.Path) })
	return patch
}

func paths(patch []jsonpatch.Operation) string {
	var all []string
	for _, op := range patch {
		all = append(all, op.Operation+" "+op.Path)
	}
	return strings.Join(all, "\n")
}

const (
	addAnnotations = "add /metadata/annotations\n"
	addFinalizers  = "add /metadata/finalizers\n"
)

func TestPatchTouchesOnlyWhatIsInjected(t *testing.T) {
	raw := `{"metadata":{"name":"cp"},"unknown":{"big":12345678901234567890,"float":1.0},
		"spec":{"network":{"devices":[{"networkName":"a","future":[1.50]},{"networkName":"b"}]}}}`
	got := paths(patchOf(t, raw, boundDevice(0, nil)))
	if want := addAnnotations + addFinalizers + "add /spec/network/devices/0/ipAddrs"; got != want {
		t.Errorf("got the patch\n%s\nwant\n%s", got, want)
	}
}

func TestPatchAddsToMetadataThatIsThere(t *testing.T) {
	raw := `{"metadata":{"name":"cp","annotations":{"a":"b"},"finalizers":["f"]},"spec":{"network":{"devices":[{}]}}}`
	got := paths(patchOf(t, raw, boundDevice(0, nil)))
	want := "add /metadata/annotations/capv-static-ip.dev~1bindings\nadd /metadata/finalizers/1\nadd /spec/network/devices/0/ipAddrs"
	if got != want {
		t.Errorf("got the patch\n%s\nwant\n%s", got, want)
	}
}

func TestInjectionIntoADevice(t *testing.T) {
	gateway4 := func(b *ipam.Binding) { b.Gateway = netip.MustParseAddr("10.0.0.254") }
	tests := map[string]struct {
		device string
		change func(*ipam.Binding)
		want   string
	}{
		"address alone": {`{}`, nil, `{"ipAddrs":["10.0.0.1/24"]}`},
		"gateway of the pool": {`{}`, gateway4,
			`{"gateway4":"10.0.0.254","ipAddrs":["10.0.0.1/24"]}`},
		"gateway of the device stays": {`{"gateway4":"10.0.0.253"}`, gateway4,
			`{"gateway4":"10.0.0.253","ipAddrs":["10.0.0.1/24"]}`},
		"IPv6": {`{}`, func(b *ipam.Binding) {
			b.Address, b.Gateway = netip.MustParsePrefix("fd00::1/64"), netip.MustParseAddr("fd00::fe")
		}, `{"gateway6":"fd00::fe","ipAddrs":["fd00::1/64"]}`},
		"name servers of the pool": {`{"nameservers":["10.0.0.52"]}`, func(b *ipam.Binding) { b.Nameservers = []string{"10.0.0.53"} },
			`{"ipAddrs":["10.0.0.1/24"],"nameservers":["10.0.0.53"]}`},
		"name servers of the device, where the pool has none": {`{"nameservers":["10.0.0.52"],"searchDomains":["a"]}`, nil,
			`{"ipAddrs":["10.0.0.1/24"],"nameservers":["10.0.0.52"],"searchDomains":["a"]}`},
		"search domains of the pool": {`{"searchDomains":["a"]}`, func(b *ipam.Binding) { b.SearchDomains = []string{"b", "c"} },
			`{"ipAddrs":["10.0.0.1/24"],"searchDomains":["b","c"]}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := injectedInto(t, test.device, boundDevice(0, test.change).Bindings); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// injectedInto is a device after all these bindings, which are all its own, were injected.
func injectedInto(t *testing.T, device string, bindings []ipam.Binding) string {
	t.Helper()
	doc := Document{}
	if err := json.Unmarshal([]byte(`{"metadata":{},"spec":{"network":{"devices":[`+device+`]}}}`), &doc); err != nil {
		t.Fatal(err)
	}
	if err := Inject(doc, bindings, ipam.Bindings{Machine: "cp", Bindings: bindings}); err != nil {
		t.Fatal(err)
	}
	injected, err := doc.device(0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(injected)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dualStack are the bindings of a device with an address of each family.
func dualStack() []ipam.Binding {
	four := boundDevice(0, func(b *ipam.Binding) {
		b.Gateway, b.Nameservers, b.SearchDomains = netip.MustParseAddr("10.0.0.254"), []string{"10.0.0.53", "fd00::53"}, []string{"a"}
	}).Bindings[0]
	six := boundDevice(0, func(b *ipam.Binding) {
		b.Claim, b.Address, b.Gateway = ipam.ClaimName("cp", ipam.Slot{Nth: 1}), netip.MustParsePrefix("fd00::1/64"), netip.MustParseAddr("fd00::fe")
		b.Nameservers, b.SearchDomains = []string{"fd00::53", "fd00::54"}, []string{"a", "b"}
	}).Bindings[0]
	return []ipam.Binding{four, six}
}

const dualStackDevice = `{"gateway4":"10.0.0.254","gateway6":"fd00::fe","ipAddrs":["10.0.0.1/24","fd00::1/64"],` +
	`"nameservers":["10.0.0.53","fd00::53","fd00::54"],"searchDomains":["a","b"]}`

func TestDeviceIsGivenAllItsAddresses(t *testing.T) {
	bindings := dualStack()
	second := boundDevice(0, func(b *ipam.Binding) {
		b.Claim, b.Address, b.Gateway = ipam.ClaimName("cp", ipam.Slot{Nth: 1}), netip.MustParsePrefix("10.0.1.1/24"), netip.MustParseAddr("10.0.1.254")
	}).Bindings[0]
	for name, test := range map[string]struct {
		device   string
		bindings []ipam.Binding
		want     string
	}{
		"of both families, with both gateways":         {`{}`, bindings, dualStackDevice},
		"in the order in which they were asked for":    {`{}`, []ipam.Binding{bindings[1], bindings[0]}, dualStackDevice},
		"also if it has some of them":                  {`{"ipAddrs":["fd00::1/64"]}`, bindings, dualStackDevice},
		"of one family, with the gateway of the first": {`{}`, []ipam.Binding{bindings[0], second}, `{"gateway4":"10.0.0.254","ipAddrs":["10.0.0.1/24","10.0.1.1/24"],"nameservers":["10.0.0.53","fd00::53"],"searchDomains":["a"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := injectedInto(t, test.device, test.bindings); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestMoreNameServersThanADeviceHoldsAreRefused(t *testing.T) {
	bindings := dualStack()
	for i := range bindings {
		bindings[i].Nameservers = nil
		for n := range 65 {
			bindings[i].Nameservers = append(bindings[i].Nameservers, netip.AddrFrom4([4]byte{10, 0, byte(i), byte(n)}).String())
		}
	}
	_, err := PatchFor([]byte(`{"metadata":{},"spec":{"network":{"devices":[{}]}}}`), func(doc Document) error {
		return Inject(doc, bindings, ipam.Bindings{Bindings: bindings})
	})
	wantRefusal(t, err, ipam.PoolInvalid, "130 name servers")
}

func TestInjectionNeedsTheDevice(t *testing.T) {
	for _, raw := range []string{
		`{"metadata":{}}`, `{"metadata":{},"spec":{"network":{"devices":[]}}}`, `{"metadata":{},"spec":{"network":{"devices":[7]}}}`,
		`{"spec":{"network":{"devices":[{}]}}}`, `[]`, `{`,
	} {
		_, err := PatchFor([]byte(raw), func(doc Document) error {
			return Inject(doc, boundDevice(0, nil).Bindings, boundDevice(0, nil))
		})
		if err == nil {
			t.Errorf("%s: got a patch", raw)
		}
	}
}
