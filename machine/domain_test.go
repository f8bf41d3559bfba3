package machine

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// zone is a failure domain with networks, or with configurations if these are given.
func zone(name string, networks []string, configurations ...capi.NetworkConfiguration) Domain {
	return Domain{Name: name, FailureDomain: "fd-" + name, Topology: capi.Topology{Networks: networks, NetworkConfigurations: configurations}}
}

// askingZone is a failure domain of which one object asks for the pool of device 0.
func askingZone(name, pool string) Domain {
	domain := Domain{Name: name}
	by := annotatedAsker(`VSphereDeploymentZone "`+name+`"`, map[string]string{ipam.PoolsAnnotationPrefix + "0": pool})
	by.ForMany = true
	domain.Askers = []Asker{by}
	return domain
}

// none stands for a machine without a failure domain.
var none = Domain{}

func TestWhatIsTheSameInAllFailureDomainsIsDecided(t *testing.T) {
	on, off := true, false
	poolOfTemplate := []Asker{asker("machine", nil, nil), labelled("template", "p")}
	for name, test := range map[string]struct {
		devices string
		domains []Domain
		asked   []Asker
		// want is what is asked for, or "?" if that is undecided.
		want string
	}{
		"a pool of the template":           {`{"networkName":"a"}`, []Domain{zone("a", nil), zone("b", nil)}, poolOfTemplate, "0:p"},
		"on networks that differ":          {`{"networkName":"a"}`, []Domain{zone("a", []string{"seg-a"}), zone("b", []string{"seg-b"})}, poolOfTemplate, "0:p"},
		"the same pool of two domains":     {`{}`, []Domain{askingZone("a", "q"), askingZone("b", "q")}, poolOfTemplate, "0:q"},
		"a domain's pool, as the template": {`{}`, []Domain{askingZone("a", "p"), zone("b", nil)}, poolOfTemplate, "0:p"},
		"pools of domains that differ":     {`{}`, []Domain{askingZone("a", "p"), askingZone("b", "q")}, poolOfTemplate, "?"},
		"a pool of one domain only":        {`{}`, []Domain{none, askingZone("a", "q")}, poolOfTemplate, "?"},
		"the machine's own pool":           {`{}`, []Domain{askingZone("a", "p"), askingZone("b", "q")}, []Asker{labelled("machine", "own")}, "0:own"},
		"nobody asks":                      {`{}`, []Domain{zone("a", nil), zone("b", nil)}, []Asker{asker("machine", nil, nil)}, ""},
		"DHCP in one domain":               {`{}`, []Domain{zone("a", nil), zone("b", nil, capi.NetworkConfiguration{NetworkName: "x", DHCP4: &on})}, poolOfTemplate, "?"},
		"DHCP in all domains": {`{}`, []Domain{
			zone("a", nil, capi.NetworkConfiguration{NetworkName: "x", DHCP4: &on}), zone("b", nil, capi.NetworkConfiguration{NetworkName: "y", DHCP6: &on}),
		}, []Asker{asker("machine", nil, nil)}, ""},
		"pools of CAPV's in the domain":       {`{}`, []Domain{zone("a", nil, capi.NetworkConfiguration{AddressesFromPools: []capi.PoolOfDevice{{Name: "p"}}})}, poolOfTemplate, ""},
		"DHCP that the domain takes away":     {`{"dhcp4":true}`, []Domain{zone("a", nil, capi.NetworkConfiguration{NetworkName: "x", DHCP4: &off})}, poolOfTemplate, "0:p"},
		"a request that is malformed in one":  {`{}`, []Domain{zone("a", nil), askingZone("b", "a/b/c")}, poolOfTemplate, "?"},
		"a domain's request for other shapes": {`{"dhcp4":true},{}`, []Domain{askingZone("a", "q")}, poolOfTemplate, "1:p"},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", test.devices)
			asks, _, err := m.AsksIn(test.domains, test.asked)
			switch {
			case test.want == "?" && !errors.Is(err, ipam.ErrUndecided):
				t.Errorf("got %s and error %v, want that it is undecided", askedFor(asks), err)
			case test.want != "?" && (err != nil || askedFor(asks) != test.want):
				t.Errorf("got %s and error %v, want %s", askedFor(asks), err, test.want)
			}
		})
	}
}

func TestRequestThatIsMalformedInAllFailureDomainsIsRefused(t *testing.T) {
	_, m := machineWith(t, "", `{}`)
	_, _, err := m.AsksIn([]Domain{askingZone("a", "a/b/c"), askingZone("b", "?")}, []Asker{asker("machine", nil, nil)})
	wantRefusal(t, err, ipam.PoolNameInvalid, `annotation pools.capv-static-ip.dev/0 of VSphereDeploymentZone "a"`)
}

func TestFailureDomainMayAskForDevicesThatTheMachineDoesNotHave(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"x","dhcp4":true}`)
	domain := askingZone("a", "q")
	domain.Askers[0].SetAnnotations(map[string]string{ipam.PoolsAnnotationPrefix + "0": "p", ipam.PoolsAnnotationPrefix + "7": "q"})
	asks, warnings, err := m.AsksIn([]Domain{domain}, []Asker{asker("machine", nil, nil)})
	if err != nil || len(asks)+len(warnings) > 0 {
		t.Errorf("got %v, warnings %q and error %v, want none", asks, warnings, err)
	}
}

func TestDeviceIsTheMachinesOwnAndItsSitesAreTheDomains(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"x","deviceName":"eth0"}`)
	domains := []Domain{none, zone("a", []string{"seg-a"})}
	asks, _, err := m.AsksIn(domains, []Asker{labelled("machine", "p")})
	if want := (ipam.Device{Index: 0, DeviceName: "eth0", NetworkName: "x"}); err != nil || len(asks) != 1 || asks[0].Device != want {
		t.Fatalf("got %+v and error %v, want device %+v", asks, err, want)
	}
	if got, want := m.SitesOf(0, domains), []ipam.Site{{Network: "x"}, {FailureDomain: "a", Network: "seg-a"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got sites %+v, want %+v", got, want)
	}
	if m.Spec.Network.Devices[0].NetworkName != "x" {
		t.Error("the machine was changed")
	}
}

func TestDeviceThatAFailureDomainAddsWithoutAddressesIsToldOf(t *testing.T) {
	const warning = `failure domain "a" adds device 1, which has no source of addresses: set dhcp4 or addressesFromPools in VSphereFailureDomain "fd-a"`
	on := true
	two := zone("a", []string{"seg-a", "seg-b"})
	for name, test := range map[string]struct {
		domains []Domain
		want    bool
	}{
		"by its networks":          {[]Domain{two}, true},
		"by one of two":            {[]Domain{two, zone("b", []string{"seg-c"})}, true},
		"with DHCP":                {[]Domain{zone("a", nil, capi.NetworkConfiguration{}, capi.NetworkConfiguration{DHCP4: &on})}, false},
		"that is the machine's":    {[]Domain{zone("a", []string{"seg-a"})}, false},
		"of many that may not be":  {[]Domain{none, two}, false},
		"none, without a domain":   {nil, false},
		"none, as the domain says": {[]Domain{none}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, m := machineWith(t, "", `{"networkName":"x"}`)
			_, warnings, err := m.AsksIn(test.domains, []Asker{labelled("machine", "p")})
			if err != nil || slices.Contains(warnings, warning) != test.want || !test.want && len(warnings) > 0 {
				t.Errorf("got warnings %q and error %v", warnings, err)
			}
		})
	}
}

func TestWarningOfSeveralFailureDomainsIsGivenOnce(t *testing.T) {
	_, m := machineWith(t, "", `{"networkName":"x"}`)
	_, warnings, err := m.AsksIn([]Domain{zone("a", nil), zone("b", nil)}, []Asker{asker("machine", nil, nil)})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "device 0 has no source of addresses") {
		t.Errorf("got warnings %q and error %v, want one", warnings, err)
	}
}

func TestMachineAnswersForItselfOnlyIfItDoesSoInEachFailureDomain(t *testing.T) {
	off := false
	_, m := machineWith(t, "", `{},{"dhcp4":true}`)
	own := annotatedAsker("machine", map[string]string{ipam.PoolsAnnotationPrefix + "0": "p"})
	takesDHCPAway := zone("a", nil, capi.NetworkConfiguration{NetworkName: "x"}, capi.NetworkConfiguration{NetworkName: "y", DHCP4: &off})
	if !own.AnswersIn(m, nil) || !own.AnswersIn(m, []Domain{none}) || own.AnswersIn(m, []Domain{none, takesDHCPAway}) {
		t.Error("the template would be needed, or would not, where it is the other way round")
	}
}
