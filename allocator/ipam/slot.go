package ipam

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Slot is the place of an address on its machine: the index of the device, and which of
// the device's addresses it is, from 0.
type Slot struct {
	Device, Nth int
}

// String is the form of a slot in the names of claims and in DeviceAnnotation: INDEX,
// or INDEX.NTH for those after a device's first.
func (s Slot) String() string {
	if s.Nth == 0 {
		return strconv.Itoa(s.Device)
	}
	return strconv.Itoa(s.Device) + "." + strconv.Itoa(s.Nth)
}

// parseSlot reads a slot as String writes it.
func parseSlot(text string) (slot Slot, ok bool) {
	device, nth, more := strings.Cut(text, ".")
	index, err := strconv.ParseUint(device, 10, 16)
	if err != nil {
		return Slot{}, false
	}
	slot.Device = int(index)
	if more {
		place, err := strconv.ParseUint(nth, 10, 16)
		if err != nil || place == 0 {
			return Slot{}, false
		}
		slot.Nth = int(place)
	}
	return slot, true
}

// ClaimName is the name of a machine's claim for this slot: <machine>-<index>, which is
// the name that the static IP adapter for CAPV used, so that its claims are recognised,
// and <machine>-<index>.<n> for the further addresses of a device. A name over the
// limit for object names (253) is cut and ends in a hash of the whole.
func ClaimName(machine string, slot Slot) string {
	return ClaimNameOfTry(machine, slot, 1)
}

// ClaimNameOfTry is ClaimName for the claim of the n-th try. Those after the first
// end in .r<n>: the names before are those of claims that were set aside.
func ClaimNameOfTry(machine string, slot Slot, try int) string {
	suffix := "-" + slot.String()
	if try > 1 {
		suffix += ".r" + strconv.Itoa(try)
	}
	if len(machine)+len(suffix) <= validation.DNS1123SubdomainMaxLength {
		return machine + suffix
	}
	suffix = "-" + shortHash(machine) + suffix
	head := machine[:validation.DNS1123SubdomainMaxLength-len(suffix)]
	return strings.TrimRight(head, ".-") + suffix
}

// SlotOfClaim is the slot that a claim of the machine is for: by the claim's name, or,
// where the claim was made for another machine first, by its own marks.
func SlotOfClaim(claim client.Object, machine string) (slot Slot, ok bool) {
	if slot, ok := slotOfName(claim.GetName(), machine); ok {
		return slot, true
	}
	if !IsMarked(claim, machine) {
		return Slot{}, false
	}
	return parseSlot(claim.GetAnnotations()[DeviceAnnotation])
}

// slotOfName is the slot in the name of a claim of this machine. The name is made again
// and compared, because that of a long machine was cut.
func slotOfName(claim, machine string) (slot Slot, ok bool) {
	_, slot, try, ok := ParseClaimName(claim)
	return slot, ok && claim == ClaimNameOfTry(machine, slot, try)
}

// ParseClaimName reads the name of a claim backwards, see ClaimNameOfTry: the machine
// (unless the name was cut), the slot, and which try it was. It is false for a name that
// does not end in a slot.
func ParseClaimName(claim string) (machine string, slot Slot, try int, ok bool) {
	dash := strings.LastIndexByte(claim, '-')
	if dash <= 0 {
		return "", Slot{}, 0, false
	}
	place, retry, retried := strings.Cut(claim[dash+1:], ".r")
	if slot, ok = parseSlot(place); !ok {
		return "", Slot{}, 0, false
	}
	try = 1
	if retried {
		var err error
		if try, err = strconv.Atoi(retry); err != nil || try < 2 {
			return "", Slot{}, 0, false
		}
	}
	return claim[:dash], slot, try, true
}
