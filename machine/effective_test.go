package machine

import (
	"encoding/json"
	"reflect"
	"testing"

	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/capi"
)

// Most cases, and their names, are those of CAPV's own tests
// (Test_VimMachineService_GenerateOverrideFunc and
// Test_mergeNetworkConfigurationToNetworkDeviceSpec in pkg/services).
func TestEffectiveDevicesAreThoseThatCAPVMakes(t *testing.T) {
	const networks = `{"networks":["nw-one","another-nw"]}`
	const configurations = `{"networkConfigurations":[{"networkName":"nw-one","dhcp4":true},{"networkName":"another-nw","dhcp6":true}]}`
	for name, test := range map[string]struct{ domain, devices, want string }{
		"a failure domain that says nothing": {`{}`,
			`[{"networkName":"foo","dhcp4":true}]`, `[{"networkName":"foo","dhcp4":true}]`},
		"equal number of networks": {networks,
			`[{"networkName":"foo","dhcp4":false},{"networkName":"bar","dhcp6":false}]`,
			`[{"networkName":"nw-one","dhcp4":false},{"networkName":"another-nw","dhcp6":false}]`},
		"equal number of configurations": {configurations,
			`[{"networkName":"foo","dhcp4":false},{"networkName":"bar","dhcp6":false}]`,
			`[{"networkName":"nw-one","dhcp4":true},{"networkName":"another-nw","dhcp6":true}]`},
		"fewer devices than networks": {networks,
			`[{"networkName":"foo","dhcp4":false}]`,
			`[{"networkName":"nw-one","dhcp4":false},{"networkName":"another-nw"}]`},
		"fewer devices than configurations": {configurations,
			`[{"networkName":"foo","dhcp4":false}]`,
			`[{"networkName":"nw-one","dhcp4":true},{"networkName":"another-nw","dhcp6":true}]`},
		"more devices than networks": {networks,
			`[{"networkName":"foo"},{"networkName":"bar"},{"networkName":"baz","dhcp6":false}]`,
			`[{"networkName":"nw-one"},{"networkName":"another-nw"},{"networkName":"baz","dhcp6":false}]`},
		"more devices than configurations": {configurations,
			`[{"networkName":"foo","dhcp4":false},{"networkName":"bar","dhcp6":false},{"networkName":"baz","dhcp6":false}]`,
			`[{"networkName":"nw-one","dhcp4":true},{"networkName":"another-nw","dhcp6":true},{"networkName":"baz","dhcp6":false}]`},
		"no devices": {configurations, `[]`,
			`[{"networkName":"nw-one","dhcp4":true},{"networkName":"another-nw","dhcp6":true}]`},
		"all fields": {`{"networkConfigurations":[{"networkName":"nw-name","dhcp4":true,"dhcp6":false,"nameservers":["1.1.1.1"],"searchDomains":["vmware.ci"],` +
			`"addressesFromPools":[{"apiGroup":"api-group","kind":"my-pool-kind","name":"my-pool-1"}]}]}`,
			`[{}]`,
			`[{"networkName":"nw-name","dhcp4":true,"dhcp6":false,"nameservers":["1.1.1.1"],"searchDomains":["vmware.ci"],` +
				`"addressesFromPools":[{"apiGroup":"api-group","kind":"my-pool-kind","name":"my-pool-1"}]}]`},
		"fields that are left alone": {`{"networkConfigurations":[{"networkName":"nw-name"}]}`,
			`[{"networkName":"foo","dhcp4":true,"dhcp6":true,"nameservers":["1.1.1.1"],"searchDomains":["vmware.ci"],"ipAddrs":["10.0.0.1/24"],"skipIPAllocation":true,` +
				`"addressesFromPools":[{"apiGroup":"g","kind":"K","name":"p"}]}]`,
			`[{"networkName":"nw-name","dhcp4":true,"dhcp6":true,"nameservers":["1.1.1.1"],"searchDomains":["vmware.ci"],"ipAddrs":["10.0.0.1/24"],"skipIPAllocation":true,` +
				`"addressesFromPools":[{"apiGroup":"g","kind":"K","name":"p"}]}]`},
		"DHCP taken away": {`{"networkConfigurations":[{"networkName":"nw","dhcp4":false}]}`,
			`[{"networkName":"foo","dhcp4":true}]`, `[{"networkName":"nw","dhcp4":false}]`},
	} {
		t.Run(name, func(t *testing.T) {
			devices, want := devicesFrom(t, test.devices), devicesFrom(t, test.want)
			var domain capi.Topology
			if err := json.Unmarshal([]byte(test.domain), &domain); err != nil {
				t.Fatal(err)
			}
			if got := Effective(devices, domain); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if !reflect.DeepEqual(devices, devicesFrom(t, test.devices)) {
				t.Errorf("the devices of the machine were changed: %+v", devices)
			}
		})
	}
}

func devicesFrom(t *testing.T, text string) []infrav1.NetworkDeviceSpec {
	t.Helper()
	var devices []infrav1.NetworkDeviceSpec
	if err := json.Unmarshal([]byte(text), &devices); err != nil {
		t.Fatal(err)
	}
	return devices
}
