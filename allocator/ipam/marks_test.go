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

func TestAdapterMachineReversesClaimName(t *testing.T) {
	for claim, want := range map[string]string{
		"cp-x7k2p-0":  "cp-x7k2p",
		"cp-12":       "cp",
		"cp-12.r2":    "cp",
		"cp":          "",
		"cp-":         "",
		"-0":          "",
		"cp-x":        "",
		"cp-99999999": "",
	} {
		if got := AdapterMachine(claim); got != want {
			t.Errorf("claim %q: got machine %q, want %q", claim, got, want)
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
