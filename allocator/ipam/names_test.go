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
func FuzzDeviceIsReadFromTheNameOfItsClaim(f *testing.F) {
	f.Add("cp-x7k2p", 0, 1)
	f.Add("cp-0-1.r2", 12, 260)
	f.Add(strings.Repeat("a", 253), 63, 4)
	f.Add(strings.Repeat("a", 230)+"."+strings.Repeat("b", 22), 9, 2)
	f.Fuzz(func(t *testing.T, machine string, index, try int) {
		if len(validation.IsDNS1123Subdomain(machine)) > 0 || index < 0 || index >= MaxDevices || try < 1 || try > 1000 {
			return // it is no machine, device or try
		}
		name := ClaimNameOfTry(machine, index, try)
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			t.Errorf("%q is no name: %v", name, problems)
		}
		claim := &ipamv1.IPClaim{}
		claim.Name = name
		if got, ok := DeviceOfClaim(claim, machine); !ok || got != index {
			t.Errorf("claim %q is for device %d (%v), want %d", name, got, ok, index)
		}
		_, gotIndex, gotTry, ok := ParseClaimName(name)
		if !ok || gotIndex != index || gotTry != try {
			t.Errorf("claim %q is that of try %d for device %d (%v), want %d and %d", name, gotTry, gotIndex, ok, try, index)
		}
	})
}

func TestClaimsOfALongMachineAreAllDifferent(t *testing.T) {
	long := strings.Repeat("a", 252)
	names := map[string]bool{}
	for _, machine := range []string{long + "b", long + "c"} {
		for index := range 3 {
			for try := 1; try <= 3; try++ {
				names[ClaimNameOfTry(machine, index, try)] = true
			}
		}
	}
	if len(names) != 18 {
		t.Errorf("18 claims have %d names", len(names))
	}
}

// The longest names that fit stay whole: those are the names of the adapter's claims.
func TestNameOfAClaimIsCutOnlyIfItMustBe(t *testing.T) {
	for length, whole := range map[int]bool{251: true, 252: false} {
		machine := strings.Repeat("a", length)
		if got := ClaimName(machine, 7); (got == machine+"-7") != whole {
			t.Errorf("a machine with %d characters: got %q", length, got)
		}
	}
}

func TestDeviceOfAClaim(t *testing.T) {
	for name, test := range map[string]struct {
		claim string
		// marked is the machine of which the claim bears the marks.
		marked, device string
		want           int
		ok             bool
	}{
		"by its name":                              {claim: "cp-1", want: 1, ok: true},
		"by the name of a later try":               {claim: "cp-1.r3", want: 1, ok: true},
		"by its name, whatever the mark says":      {claim: "cp-1", marked: "cp", device: "2", want: 1, ok: true},
		"by its mark":                              {claim: "earlier-0", marked: "cp", device: "2", want: 2, ok: true},
		"of another machine":                       {claim: "other-1"},
		"of another machine, with its mark":        {claim: "other-1", marked: "other", device: "1"},
		"of a machine whose name begins like that": {claim: "cp-1-1"},
		"with a mark that is none":                 {claim: "earlier-0", marked: "cp", device: "x"},
		"with a mark of nothing":                   {claim: "earlier-0", marked: "cp"},
		"with a mark before the first":             {claim: "earlier-0", marked: "cp", device: "-1"},
		"with a name that another would have":      {claim: "cp-01"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{}
			claim.Name = test.claim
			if test.marked != "" {
				Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: test.marked}})
				kube.SetAnnotation(claim, DeviceAnnotation, test.device)
			}
			got, ok := DeviceOfClaim(claim, "cp")
			if ok != test.ok || ok && got != test.want {
				t.Errorf("got device %d, %v, want %d, %v", got, ok, test.want, test.ok)
			}
		})
	}
}
