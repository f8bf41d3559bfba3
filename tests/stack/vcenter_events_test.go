package stack_test

import (
	"testing"

	"capv-static-ip.dev/tests/stack"
)

func TestSharedAddressesAreFound(t *testing.T) {
	t.Parallel()
	const address = "10.16.56.88/24"
	event := func(kind stack.VMEventKind, id string, addresses ...string) stack.VMEvent {
		return stack.VMEvent{Kind: kind, ID: id, Name: id, Addresses: addresses}
	}
	for name, test := range map[string]struct {
		events []stack.VMEvent
		want   int
	}{
		"given again after the VM was destroyed": {events: []stack.VMEvent{
			event(stack.VMConfigured, "a", address), event(stack.VMDestroyed, "a", address),
			event(stack.VMCreated, "b"), event(stack.VMConfigured, "b", address),
		}},
		"given again while the VM was only powered off": {want: 1, events: []stack.VMEvent{
			event(stack.VMConfigured, "a", address), event(stack.VMPoweredOff, "a", address),
			event(stack.VMConfigured, "b", address), event(stack.VMDestroyed, "a", address),
		}},
		"given twice to one VM": {events: []stack.VMEvent{
			event(stack.VMConfigured, "a", address), event(stack.VMConfigured, "a", address, "10.16.57.88/24"),
		}},
		"other addresses": {events: []stack.VMEvent{
			event(stack.VMConfigured, "a", address), event(stack.VMConfigured, "b", "10.16.56.89/24"),
		}},
	} {
		if found := stack.SharedAddresses(test.events); len(found) != test.want {
			t.Errorf("%s: found %v, want %d", name, found, test.want)
		}
	}
}
