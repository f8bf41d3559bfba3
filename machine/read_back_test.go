package machine

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

func TestInjectedIsInjectReadBackwards(t *testing.T) {
	for name, change := range map[string]func(*ipam.Binding){
		"address alone": nil,
		"all of IPv4": func(b *ipam.Binding) {
			b.Gateway = netip.MustParseAddr("10.0.0.254")
			b.Nameservers, b.SearchDomains = []string{"10.0.0.53"}, []string{"example.org"}
		},
		"IPv6 with a gateway": func(b *ipam.Binding) {
			b.Address, b.Gateway = netip.MustParsePrefix("fd00::2/64"), netip.MustParseAddr("fd00::1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := boundDevice(1, change)
			binding := &want.Bindings[0]
			binding.Device.NetworkName, binding.Device.DeviceName = "b", "ens192"
			doc := Document{"metadata": map[string]any{}, "spec": map[string]any{"network": map[string]any{"devices": []any{
				map[string]any{"networkName": "a"},
				map[string]any{"networkName": "b", "deviceName": "ens192"},
			}}}}
			if err := Inject(doc, want.Bindings, want); err != nil {
				t.Fatal(err)
			}
			stored := storedMachine(t, doc)
			claim := ipam.Claim{Object: &capi.Cluster{}, Pool: binding.Pool}
			claim.SetName(binding.Claim)
			got, ok := Injected(stored.Spec.Network.Devices, claim, binding.Address.Addr())
			if !ok || !reflect.DeepEqual(got, *binding) {
				t.Errorf("got %+v, %t, want %+v", got, ok, *binding)
			}
		})
	}
}

func TestAddressThatIsOnNoDeviceWasNotInjected(t *testing.T) {
	devices := []capi.Device{{IPAddrs: []string{"10.0.0.1/24"}}}
	for _, ip := range []netip.Addr{netip.MustParseAddr("10.0.0.2"), {}} {
		if got, ok := Injected(devices, ipam.Claim{Object: &capi.Cluster{}}, ip); ok {
			t.Errorf("got %+v for %s", got, ip)
		}
	}
}

func storedMachine(t *testing.T, doc Document) *capi.VSphereMachine {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	stored := &capi.VSphereMachine{}
	if err := json.Unmarshal(text, stored); err != nil {
		t.Fatal(err)
	}
	return stored
}
