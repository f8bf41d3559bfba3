package machine

import (
	"fmt"
	"net/netip"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// ofTemplate is the metadata of a machine that was cloned from a template.
func ofTemplate(name, more string) string {
	return fmt.Sprintf(`,"annotations":{"cluster.x-k8s.io/cloned-from-name":%q}%s`, name, more)
}

func TestUpdateThatMakesAMachineOneOfAnotherTemplate(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string
		want          bool
	}{
		"of another":                 {ofTemplate("a", ""), ofTemplate("b", ""), true},
		"of one, having lost it":     {"", ofTemplate("b", ""), true},
		"of the same":                {ofTemplate("a", ""), ofTemplate("a", ""), false},
		"of none":                    {ofTemplate("a", ""), "", false},
		"while it is being deleted":  {ofTemplate("a", ""), ofTemplate("b", `,"deletionTimestamp":"2026-01-01T00:00:00Z"`), false},
		"while clusterctl has moved": {ofTemplate("a", ""), `,"annotations":{"cluster.x-k8s.io/cloned-from-name":"b","clusterctl.cluster.x-k8s.io/delete-for-move":""}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, test.before, first)
			_, after := machineWith(t, test.after, first)
			if got := ChangesTemplate(before, after); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

// A device without a binding is not served by an update, whatever it asks for.
func TestDevicesThatHoldAddressesAskAsIfTheyHadNone(t *testing.T) {
	_, before := machineWith(t, "", first)
	own := `{"networkName":"a","ipAddrs":["10.0.0.1/24","10.0.0.99/24"]}`
	_, after := machineWith(t, "", own+`,{"networkName":"c"},{"networkName":"d","ipAddrs":["10.0.2.1/24"]}`)

	asks, _, err := Unbound(before, after, twoBound().Bindings[:1]).Asks([]Asker{labelled("template", "p")})

	if err != nil || askedFor(asks) != "0:p" {
		t.Errorf("asked for is %q, error %v, want p for the first device alone", askedFor(asks), err)
	}
	if got := len(after.Spec.Network.Devices[0].IPAddrs); got != 2 {
		t.Errorf("the machine itself has %d addresses, want both", got)
	}
}

func meant(device, nth int, pools ...ipam.PoolReference) Meant {
	return Meant{Ask: ipam.Ask{Device: ipam.Device{Index: device}, Nth: nth, AskedBy: "the template"}, Pools: pools}
}

func TestPoolsThatANewTemplateAsksFor(t *testing.T) {
	same, another := metal3.PoolNamed("pool"), metal3.PoolNamed("other")
	for name, test := range map[string]struct {
		asked   []Meant
		refused string
	}{
		"the same":                  {[]Meant{meant(0, 0, same), meant(1, 0, same)}, ""},
		"the same among others":     {[]Meant{meant(0, 0, another, same)}, ""},
		"none":                      {nil, ""},
		"none for one device":       {[]Meant{meant(0, 0, same)}, ""},
		"another name":              {[]Meant{meant(0, 0, another)}, `device 0 holds 10.0.0.1/24 from IPPool "pool", and the template asks for other pools now: replace the machine`},
		"another kind":              {[]Meant{meant(0, 0, contract.InClusterPool("pool"))}, "device 0 holds"},
		"another for one device":    {[]Meant{meant(0, 0, same), meant(1, 0, another)}, "device 1 holds 10.0.1.1/24"},
		"one more, of another pool": {[]Meant{meant(0, 0, same), meant(0, 1, another)}, "device 0 holds"},
		"one more, of the same":     {[]Meant{meant(0, 0, same), meant(0, 1, same)}, "device 0 holds"},
		"the same, but as a second": {[]Meant{meant(0, 1, same)}, "device 0 holds"},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, marks(t), first+","+other)
			checkRefused(t, CheckPools(before, twoBound().Bindings, test.asked), test.refused)
		})
	}
}

// Two addresses of a device are each compared with what is asked for in their place.
func TestPoolsOfSeveralAddressesOfOneDevice(t *testing.T) {
	v4, v6 := metal3.PoolNamed("v4"), metal3.PoolNamed("v6")
	held := []ipam.Binding{
		boundDevice(0, func(b *ipam.Binding) { b.Pool = v4 }).Bindings[0],
		boundDevice(0, func(b *ipam.Binding) {
			b.Pool, b.Claim, b.Address = v6, ipam.ClaimName("cp", ipam.Slot{Nth: 1}), netip.MustParsePrefix("fd00::1/64")
		}).Bindings[0],
	}
	for name, test := range map[string]struct {
		asked   []Meant
		refused string
	}{
		"are the same":     {[]Meant{meant(0, 0, v4), meant(0, 1, v6)}, ""},
		"change places":    {[]Meant{meant(0, 0, v6), meant(0, 1, v4)}, "device 0 holds 10.0.0.1/24"},
		"lose the second":  {[]Meant{meant(0, 0, v4)}, "device 0 holds 10.0.0.1/24"},
		"change the other": {[]Meant{meant(0, 0, v4), meant(0, 1, v4)}, "device 0 holds fd00::1/64"},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, "", `{"networkName":"a","ipAddrs":["10.0.0.1/24","fd00::1/64"]}`)
			checkRefused(t, CheckPools(before, held, test.asked), test.refused)
		})
	}
}

// checkRefused checks that a template is refused with this text, or not at all.
func checkRefused(t *testing.T, err error, text string) {
	t.Helper()
	if text != "" {
		wantRefusal(t, err, ipam.PoolChanged, text)
	} else if err != nil {
		t.Error(err)
	}
}

// What was bound is looked for where it is: a webhook may have put a device before it.
func TestPoolsAreComparedByTheDevicesThatHaveTheAddresses(t *testing.T) {
	_, before := machineWith(t, "", `{"networkName":"c","dhcp4":true},`+first)
	asked := []Meant{meant(1, 0, metal3.PoolNamed("other"))}
	wantRefusal(t, CheckPools(before, twoBound().Bindings[:1], asked), ipam.PoolChanged, "device 1 holds 10.0.0.1/24")
	if err := CheckPools(before, twoBound().Bindings[1:], asked); err != nil {
		t.Errorf("an address that is on no device is judged: %v", err)
	}
}
