package ipam

import (
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"capv-static-ip.dev/allocator/kube"
)

// A claim is found again by nothing but its name, whatever the machine's.
func FuzzSlotIsReadFromTheNameOfItsClaim(f *testing.F) {
	f.Add("cp-x7k2p", 0, 0, 1)
	f.Add("cp-0-1.r2", 12, 7, 260)
	f.Add("cp-0.1", 1, 1, 1)
	f.Add(strings.Repeat("a", 253), 63, 1, 4)
	f.Add(strings.Repeat("a", 230)+"."+strings.Repeat("b", 22), 9, 0, 2)
	f.Fuzz(func(t *testing.T, machine string, index, nth, try int) {
		if len(validation.IsDNS1123Subdomain(machine)) > 0 || index < 0 || index >= MaxDevices || nth < 0 || nth >= MaxDevices || try < 1 || try > 1000 {
			return // it is no machine, slot or try
		}
		slot := Slot{Device: index, Nth: nth}
		name := ClaimNameOfTry(machine, slot, try)
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			t.Errorf("%q is no name: %v", name, problems)
		}
		claim := &ipamv1.IPClaim{}
		claim.Name = name
		if got, ok := SlotOfClaim(claim, machine); !ok || got != slot {
			t.Errorf("claim %q is for slot %s (%v), want %s", name, got, ok, slot)
		}
		_, gotSlot, gotTry, ok := ParseClaimName(name)
		if !ok || gotSlot != slot || gotTry != try {
			t.Errorf("claim %q is that of try %d for slot %s (%v), want %d and %s", name, gotTry, gotSlot, ok, try, slot)
		}
	})
}

func TestClaimsOfALongMachineAreAllDifferent(t *testing.T) {
	long := strings.Repeat("a", 252)
	names := map[string]bool{}
	for _, machine := range []string{long + "b", long + "c"} {
		for place := range 9 {
			for try := 1; try <= 3; try++ {
				names[ClaimNameOfTry(machine, Slot{Device: place / 3, Nth: place % 3}, try)] = true
			}
		}
	}
	if len(names) != 54 {
		t.Errorf("54 claims have %d names", len(names))
	}
}

// The longest names that fit stay whole: those are the names of the adapter's claims.
func TestNameOfAClaimIsCutOnlyIfItMustBe(t *testing.T) {
	for length, whole := range map[int]bool{251: true, 252: false} {
		machine := strings.Repeat("a", length)
		if got := ClaimName(machine, Slot{Device: 7}); (got == machine+"-7") != whole {
			t.Errorf("a machine with %d characters: got %q", length, got)
		}
	}
}

func TestSlotOfAClaim(t *testing.T) {
	for name, test := range map[string]struct {
		claim string
		// marked is the machine of which the claim bears the marks.
		marked, device string
		want           string
	}{
		"by its name":                              {claim: "cp-1", want: "1"},
		"by the name of a further address":         {claim: "cp-1.2", want: "1.2"},
		"by the name of a later try":               {claim: "cp-1.r3", want: "1"},
		"by the name of a further one's later try": {claim: "cp-1.2.r3", want: "1.2"},
		"by its name, whatever the mark says":      {claim: "cp-1", marked: "cp", device: "2", want: "1"},
		"by its mark":                              {claim: "earlier-0", marked: "cp", device: "2", want: "2"},
		"by its mark, a further address":           {claim: "earlier-0.1", marked: "cp", device: "2.1", want: "2.1"},
		"of another machine":                       {claim: "other-1"},
		"of another machine, with its mark":        {claim: "other-1", marked: "other", device: "1"},
		"of a machine whose name begins like that": {claim: "cp-1-1"},
		"with a mark that is none":                 {claim: "earlier-0", marked: "cp", device: "x"},
		"with a mark of nothing":                   {claim: "earlier-0", marked: "cp"},
		"with a mark before the first":             {claim: "earlier-0", marked: "cp", device: "-1"},
		"with a name that another would have":      {claim: "cp-01"},
		"with a first address that is numbered":    {claim: "cp-1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{}
			claim.Name = test.claim
			if test.marked != "" {
				Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: test.marked}})
				kube.SetAnnotation(claim, DeviceAnnotation, test.device)
			}
			got, ok := SlotOfClaim(claim, "cp")
			if ok != (test.want != "") || ok && got.String() != test.want {
				t.Errorf("got slot %s, %v, want %q", got, ok, test.want)
			}
		})
	}
}
