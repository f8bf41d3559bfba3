package history

import (
	"fmt"
	"slices"
	"time"
)

// vmSpan is the time in which a VM had addresses.
type vmSpan struct {
	id, name  string
	addresses []string
	from, to  time.Time
	// first and last are where it is in the order of what happened in the vCenter; last is 0
	// if it goes on.
	first, last int
}

func (v *vmSpan) endsBefore(at time.Time) bool { return v.last != 0 && !v.to.After(at) }

// vms are all VMs of a history.
type vms struct{ spans []*vmSpan }

func vmsOf(records []Record) *vms {
	var events []Record
	for _, r := range records {
		if r.VM != nil {
			events = append(events, r)
		}
	}
	slices.SortStableFunc(events, func(a, b Record) int { return a.VM.Sequence - b.VM.Sequence })
	all, current := &vms{}, map[string]*vmSpan{}
	for _, r := range events {
		if had := current[r.VM.ID]; had != nil {
			had.to, had.last = r.Time, r.VM.Sequence
			delete(current, r.VM.ID)
		}
		if r.VM.Kind == Configured && len(r.VM.Addresses) > 0 {
			span := &vmSpan{id: r.VM.ID, name: r.VM.Name, from: r.Time, first: r.VM.Sequence}
			for _, address := range r.VM.Addresses {
				span.addresses = append(span.addresses, plain(address))
			}
			current[r.VM.ID] = span
			all.spans = append(all.spans, span)
		}
	}
	return all
}

// with are the VMs that have an address at a time.
func (v *vms) with(address string, at time.Time) []*vmSpan {
	var list []*vmSpan
	for _, vm := range v.spans {
		if slices.Contains(vm.addresses, address) && vm.from.Before(at) && !vm.endsBefore(at) {
			list = append(list, vm)
		}
	}
	return list
}

// shared are the addresses that two VMs have at the same moment.
func (v *vms) shared() []Violation {
	var found []Violation
	for i, later := range v.spans {
		for _, earlier := range v.spans[:i] {
			if earlier.last != 0 && earlier.last <= later.first {
				continue
			}
			for _, address := range later.addresses {
				if !slices.Contains(earlier.addresses, address) {
					continue
				}
				found = append(found, Violation{
					Rule:      Shared,
					Text:      fmt.Sprintf("VM %s (%s) is given %s, which VM %s (%s) still has", later.name, later.id, address, earlier.name, earlier.id),
					Addresses: []string{address}, Names: []string{earlier.name, later.name},
					From: earlier.from, To: later.from,
				})
			}
		}
	}
	return found
}
