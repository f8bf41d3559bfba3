package ipam

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestBindingsAreReadWithinBounds(t *testing.T) {
	const one = `{"device":{"index":0},"pool":{"apiGroup":"ipam.metal3.io","kind":"IPPool","name":"p"},"claim":"cp-0","address":"10.0.0.1/24"}`
	of := func(bindings ...string) string {
		return `{"machine":"cp","bindings":[` + strings.Join(bindings, ",") + `]}`
	}
	with := func(old, changed string) string { return of(strings.Replace(one, old, changed, 1)) }
	repeated := func(n int) string { return of(strings.Split(strings.Repeat(one+";", n), ";")[:n]...) }
	for name, test := range map[string]struct {
		text  string
		valid bool
	}{
		"one":                     {of(one), true},
		"none":                    {"{}", true},
		"as many as devices":      {repeated(MaxDevices), true},
		"one more":                {repeated(MaxDevices + 1), false},
		"as large as may be":      {of(one) + strings.Repeat(" ", MaxBindingsSize-len(of(one))), true},
		"a byte larger":           {of(one) + strings.Repeat(" ", MaxBindingsSize-len(of(one))+1), false},
		"no JSON":                 {"{", false},
		"an empty binding":        {of("{}"), false},
		"no address":              {with("10.0.0.1/24", ""), false},
		"the last device":         {with(`"index":0`, fmt.Sprintf(`"index":%d`, MaxDevices-1)), true},
		"a device beyond":         {with(`"index":0`, fmt.Sprintf(`"index":%d`, MaxDevices)), false},
		"a device before":         {with(`"index":0`, `"index":-1`), false},
		"a path for a claim":      {with("cp-0", "a/b"), false},
		"no claim":                {with("cp-0", ""), false},
		"a path for a pool":       {with(`"name":"p"`, `"name":"../p"`), false},
		"no kind":                 {with("IPPool", ""), false},
		"a path for a kind":       {with("IPPool", "a/b"), false},
		"no group":                {with("ipam.metal3.io", ""), false},
		"a claim of another name": {with("cp-0", "somebody.else"), true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseBindings(test.text); (err == nil) != test.valid {
				t.Errorf("got %v, want it to be valid: %v", err, test.valid)
			}
		})
	}
}

func TestBindingsThatWouldNotBeReadAreNotWritten(t *testing.T) {
	b := Bindings{Machine: "cp", Bindings: []Binding{{SearchDomains: []string{strings.Repeat("x", MaxBindingsSize)}}}}
	_, err := b.Encode()
	if refusal, ok := AsRefusal(err); !ok || refusal.Reason != BindingsInvalid {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestBindingsAreReadAsTheyWereWritten(t *testing.T) {
	bare := Binding{
		Pool: PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: "p"}, Claim: "cp-0", Address: netip.MustParsePrefix("10.0.0.1/24"),
	}
	whole := Binding{
		Device: Device{Index: 1, DeviceName: "eth1", NetworkName: "lan"}, Pool: PoolReference{APIGroup: "g", Kind: "K", Name: "q"}, Claim: "cp-1.r2",
		Address: netip.MustParsePrefix("fd00::1/64"), Gateway: netip.MustParseAddr("fd00::fe"),
		Nameservers: []string{"fd00::53"}, SearchDomains: []string{"example.org"},
	}
	for name, want := range map[string]Bindings{
		"none": {Machine: "cp"}, "one": {Machine: "cp", Bindings: []Binding{bare}}, "all fields": {Machine: "cp", Bindings: []Binding{bare, whole}},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := want.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := ParseBindings(text)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v and error %v\nwant %+v", got, err, want)
			}
		})
	}
}

// Nothing that a machine can have is too large, so that what is written is read.
func TestBindingsOfAllDevicesAreRead(t *testing.T) {
	all := Bindings{Machine: strings.Repeat("m", 253)}
	for i := range MaxDevices {
		all.Bindings = append(all.Bindings, Binding{
			Device: Device{Index: i, DeviceName: "ens192", NetworkName: "/DC0/network/VM Network"},
			Pool:   PoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool", Name: strings.Repeat("p", 63)},
			Claim:  ClaimNameOfTry(all.Machine, Slot{Device: i}, 260), Address: netip.MustParsePrefix("fd00:1111:2222:3333:4444::1/64"),
			Gateway: netip.MustParseAddr("fd00:1111:2222:3333:4444::fe"), Nameservers: []string{"10.0.0.53"}, SearchDomains: []string{"example.org"},
		})
	}
	text, err := all.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseBindings(text); err != nil || len(got.Bindings) != MaxDevices {
		t.Errorf("%d bytes: got %d bindings and error %v", len(text), len(got.Bindings), err)
	}
}
