package harness_test

import (
	"testing"

	"capv-static-ip.dev/tests/harness"
)

func TestSharedAddressesAreFound(t *testing.T) {
	t.Parallel()
	const address = "10.16.56.88/24"
	event := func(kind harness.VMEventKind, id string, addresses ...string) harness.VMEvent {
		return harness.VMEvent{Kind: kind, ID: id, Name: id, Addresses: addresses}
	}
	for name, test := range map[string]struct {
		events []harness.VMEvent
		want   int
	}{
		"given again after the VM was destroyed": {events: []harness.VMEvent{
			event(harness.VMConfigured, "a", address), event(harness.VMDestroyed, "a", address),
			event(harness.VMCreated, "b"), event(harness.VMConfigured, "b", address),
		}},
		"given again while the VM was only powered off": {want: 1, events: []harness.VMEvent{
			event(harness.VMConfigured, "a", address), event(harness.VMPoweredOff, "a", address),
			event(harness.VMConfigured, "b", address), event(harness.VMDestroyed, "a", address),
		}},
		"given twice to one VM": {events: []harness.VMEvent{
			event(harness.VMConfigured, "a", address), event(harness.VMConfigured, "a", address, "10.16.57.88/24"),
		}},
		"other addresses": {events: []harness.VMEvent{
			event(harness.VMConfigured, "a", address), event(harness.VMConfigured, "b", "10.16.56.89/24"),
		}},
	} {
		if found := harness.SharedAddresses(test.events); len(found) != test.want {
			t.Errorf("%s: found %v, want %d", name, found, test.want)
		}
	}
}
