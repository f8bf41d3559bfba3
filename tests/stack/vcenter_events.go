package stack

import (
	"fmt"
	"slices"
)

// SharedAddresses goes through what happened in a vCenter, in order, and finds
// each address that was given to a virtual machine while another one that had
// it existed.
func SharedAddresses(events []VMEvent) []error {
	existing := map[string]VMEvent{}
	var violations []error
	for _, event := range events {
		switch event.Kind {
		case VMDestroyed:
			delete(existing, event.ID)
			continue
		case VMConfigured:
			delete(existing, event.ID)
			violations = append(violations, event.sharedWith(existing)...)
		}
		existing[event.ID] = event
	}
	return violations
}

func (e VMEvent) sharedWith(existing map[string]VMEvent) []error {
	var violations []error
	for _, other := range existing {
		for _, address := range e.Addresses {
			if slices.Contains(other.Addresses, address) {
				violations = append(violations, fmt.Errorf("event %d: VM %s (%s) was given %s, which VM %s (%s) still had",
					e.Sequence, e.Name, e.ID, address, other.Name, other.ID))
			}
		}
	}
	return violations
}
