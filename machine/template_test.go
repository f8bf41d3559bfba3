package machine

import (
	"fmt"
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

func TestPoolsThatANewTemplateAsksFor(t *testing.T) {
	want := func(device int, pool ipam.PoolReference) ipam.Want {
		return ipam.Want{Device: ipam.Device{Index: device}, Pool: pool, AskedBy: "the template"}
	}
	missing := want(0, metal3.PoolNamed("other"))
	missing.AlsoMissing = []ipam.PoolReference{metal3.PoolNamed("pool")}
	same := want(0, metal3.PoolNamed("pool"))
	for name, test := range map[string]struct {
		wants   []ipam.Want
		refused string
	}{
		"the same":                {[]ipam.Want{same, want(1, metal3.PoolNamed("pool"))}, ""},
		"none":                    {nil, ""},
		"none for one device":     {[]ipam.Want{same}, ""},
		"another name":            {[]ipam.Want{want(0, metal3.PoolNamed("other"))}, `device 0 holds 10.0.0.1/24 from IPPool "pool", but the template now asks for IPPool "other": replace the machine`},
		"another kind":            {[]ipam.Want{want(0, contract.InClusterPool("pool"))}, `now asks for InClusterIPPool "pool"`},
		"another for one device":  {[]ipam.Want{same, want(1, metal3.PoolNamed("other"))}, "device 1 holds 10.0.1.1/24"},
		"one that cannot be used": {[]ipam.Want{missing}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := machineWith(t, marks(t), first+","+other)
			err := CheckPools(before, twoBound().Bindings, test.wants)
			if test.refused != "" {
				wantRefusal(t, err, ipam.PoolChanged, test.refused)
				return
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What was bound is looked for where it is: a webhook may have put a device before it.
func TestPoolsAreComparedByTheDevicesThatHaveTheAddresses(t *testing.T) {
	_, before := machineWith(t, "", `{"networkName":"c","dhcp4":true},`+first)
	wants := []ipam.Want{{Device: ipam.Device{Index: 1}, Pool: metal3.PoolNamed("other"), AskedBy: "the template"}}
	wantRefusal(t, CheckPools(before, twoBound().Bindings[:1], wants), ipam.PoolChanged, "device 1 holds 10.0.0.1/24")
	if err := CheckPools(before, twoBound().Bindings[1:], wants); err != nil {
		t.Errorf("an address that is on no device is judged: %v", err)
	}
}
