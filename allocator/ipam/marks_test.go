package ipam

import (
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"capv-static-ip.dev/allocator/kube"
)

func TestClaimNameIsTheAdaptersName(t *testing.T) {
	if got := ClaimName("cp-x7k2p", 1); got != "cp-x7k2p-1" {
		t.Errorf("got %q, want cp-x7k2p-1", got)
	}
}

func TestClaimNameOfALongMachineIsShortAndItsOwn(t *testing.T) {
	long := strings.Repeat("a", 252)
	for _, machine := range []string{long + "b", long + "c", strings.Repeat("a", 230) + "." + strings.Repeat("a", 22)} {
		name := ClaimName(machine, 12)
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			t.Errorf("claim name %q of a machine with %d characters is invalid: %v", name, len(machine), errs)
		}
	}
	if ClaimName(long+"b", 0) == ClaimName(long+"c", 0) {
		t.Error("two machines whose names differ in the last character share a claim name")
	}
}

func TestClaimNameIsReadBackwards(t *testing.T) {
	type parts struct {
		machine    string
		index, try int
	}
	for claim, want := range map[string]parts{
		"cp-x7k2p-0":   {"cp-x7k2p", 0, 1},
		"cp-12":        {"cp", 12, 1},
		"cp-12.r2":     {"cp", 12, 2},
		"cp-0.r260":    {"cp", 0, 260},
		"a.b-1":        {"a.b", 1, 1},
		"cp":           {},
		"cp-":          {},
		"-0":           {},
		"cp-x":         {},
		"cp-0.r1":      {},
		"cp-0.rx":      {},
		"cp-99999999":  {},
		"cp-0.r2.r3":   {},
		"cp-0.example": {},
	} {
		machine, index, try, ok := ParseClaimName(claim)
		if got := (parts{machine, index, try}); got != want || ok != (want.machine != "") {
			t.Errorf("claim %q: got %+v, %t, want %+v", claim, got, ok, want)
		}
		if ok && ClaimNameOfTry(machine, index, try) != claim {
			t.Errorf("claim %q is named %q again", claim, ClaimNameOfTry(machine, index, try))
		}
	}
}

func TestMarkedClaimIsOnlyItsOwnMachines(t *testing.T) {
	claim := &ipamv1.IPClaim{}
	Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}, Cluster: "c"})
	if !IsMarked(claim, "cp-0") || IsMarked(claim, "cp-1") {
		t.Errorf("claim marked for cp-0 has labels %v and annotations %v", claim.Labels, claim.Annotations)
	}
	claim.Labels[MachineLabel] = MachineLabelValue("cp-1")
	if IsMarked(claim, "cp-0") {
		t.Error("a claim whose label and annotation disagree counts as marked")
	}
}

func TestStampSurvivesTheAnnotation(t *testing.T) {
	claim := &ipamv1.IPClaim{}
	want := Stamp{Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Request: "uid"}
	Use(claim, want)
	got, err := StampOf(claim)
	if err != nil || got != want {
		t.Errorf("got %v and error %v, want %v", got, err, want)
	}
}

func TestStampThatIsMissingOrBrokenIsAnError(t *testing.T) {
	for _, value := range []string{"", "yesterday uid", "uid"} {
		claim := &ipamv1.IPClaim{}
		kube.SetAnnotation(claim, LastUsedAnnotation, value)
		if stamp, err := StampOf(claim); err == nil {
			t.Errorf("annotation %q was read as %v", value, stamp)
		}
	}
}
