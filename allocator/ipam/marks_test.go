package ipam

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"

	"capv-static-ip.dev/allocator/kube"
)

func TestClaimNameIsTheAdaptersName(t *testing.T) {
	if got := ClaimName("cp-x7k2p", Slot{Device: 1}); got != "cp-x7k2p-1" {
		t.Errorf("got %q, want cp-x7k2p-1", got)
	}
}

func TestClaimNameOfALongMachineIsShortAndItsOwn(t *testing.T) {
	long := strings.Repeat("a", 252)
	for _, machine := range []string{long + "b", long + "c", strings.Repeat("a", 230) + "." + strings.Repeat("a", 22)} {
		name := ClaimName(machine, Slot{Device: 12})
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			t.Errorf("claim name %q of a machine with %d characters is invalid: %v", name, len(machine), errs)
		}
	}
	if ClaimName(long+"b", Slot{Device: 0}) == ClaimName(long+"c", Slot{Device: 0}) {
		t.Error("two machines whose names differ in the last character share a claim name")
	}
}

func TestClaimNameIsReadBackwards(t *testing.T) {
	type parts struct {
		machine string
		slot    string
		try     int
	}
	for claim, want := range map[string]parts{
		"cp-x7k2p-0":   {"cp-x7k2p", "0", 1},
		"cp-12":        {"cp", "12", 1},
		"cp-12.r2":     {"cp", "12", 2},
		"cp-1.2":       {"cp", "1.2", 1},
		"cp-1.2.r2":    {"cp", "1.2", 2},
		"cp-0.r260":    {"cp", "0", 260},
		"a.b-1":        {"a.b", "1", 1},
		"cp":           {},
		"cp-":          {},
		"-0":           {},
		"cp-x":         {},
		"cp-0.r1":      {},
		"cp-0.rx":      {},
		"cp-99999999":  {},
		"cp-0.r2.r3":   {},
		"cp-0.1.2":     {},
		"cp-0.example": {},
	} {
		machine, slot, try, ok := ParseClaimName(claim)
		got := parts{machine: machine, try: try}
		if ok {
			got.slot = slot.String()
		}
		if got != want || ok != (want.machine != "") {
			t.Errorf("claim %q: got %+v, %t, want %+v", claim, got, ok, want)
		}
		if ok && ClaimNameOfTry(machine, slot, try) != claim {
			t.Errorf("claim %q is named %q again", claim, ClaimNameOfTry(machine, slot, try))
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

// The mark is what selects a claim, pauses it and moves it with its Cluster.
func TestMarkHasWhatOthersLookFor(t *testing.T) {
	claim := &ipamv1.IPClaim{}
	Mark(claim, Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}, Cluster: "dkp", WatchFilter: "lab"})
	want := map[string]string{
		MachineLabel: MachineLabelValue("cp-0"), clusterv1.ClusterNameLabel: "dkp", clusterv1.WatchLabel: "lab", clusterctlv1.ClusterctlMoveLabel: "",
	}
	if !maps.Equal(claim.Labels, want) || MachineOf(claim) != "cp-0" {
		t.Errorf("it has the labels %v and is of %q, want %v", claim.Labels, MachineOf(claim), want)
	}

	bare := &ipamv1.IPClaim{}
	Mark(bare, Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}})
	want = map[string]string{MachineLabel: MachineLabelValue("cp-0"), clusterctlv1.ClusterctlMoveLabel: ""}
	if !maps.Equal(bare.Labels, want) {
		t.Errorf("of a machine without a Cluster it has the labels %v, want %v", bare.Labels, want)
	}
}

// A hash as the value: label values end at 63 characters, names of machines do not.
func TestValueOfTheMachineLabelIsOne(t *testing.T) {
	for _, machine := range []string{"cp", strings.Repeat("a", 253)} {
		if problems := validation.IsValidLabelValue(MachineLabelValue(machine)); len(problems) > 0 {
			t.Errorf("%q: %v", machine, problems)
		}
	}
}

// Another request takes back only what it made.
func TestStampOfAClaimThatWasFoundIsNotThatOfItsMaker(t *testing.T) {
	made := Stamp{Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Request: "uid"}
	found := &ipamv1.IPClaim{}
	Use(found, made.Again())
	got, err := StampOf(found)
	if err != nil || got == made || got != made.Again() || !got.Time.Equal(made.Time) {
		t.Errorf("got %v and error %v, want %v", got, err, made.Again())
	}
	if made.Request != "uid" {
		t.Errorf("the stamp itself is %v now", made)
	}
}

func TestStampIsWrittenInUTC(t *testing.T) {
	stamp := Stamp{Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), Request: "uid"}
	if got, want := stamp.String(), "2026-01-02T02:04:05.000000006Z uid"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClaimIsKeptForTheOwnerAndTheUserWhoMadeIt(t *testing.T) {
	maker := Owner{Kind: "MachineSet", Name: "md", UID: "uid", User: "capi"}
	for name, test := range map[string]struct {
		kept bool
		// requested is for whom the claim was made.
		requested, next Owner
		want            bool
	}{
		"the same":               {true, maker, maker, true},
		"not kept":               {false, maker, maker, false},
		"another owner":          {true, maker, Owner{UID: "other", User: "capi"}, false},
		"another user":           {true, maker, Owner{UID: "uid", User: "somebody"}, false},
		"no owner":               {true, maker, Owner{}, false},
		"made for nobody":        {true, Owner{}, maker, false},
		"nobody, for nobody":     {true, Owner{}, Owner{}, false},
		"of another name by now": {true, maker, Owner{Kind: "MachineSet", Name: "renamed", UID: "uid", User: "capi"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &ipamv1.IPClaim{}
			kube.SetAnnotation(claim, RequestedByAnnotation, RequestedBy(test.requested))
			if test.kept {
				kube.SetAnnotation(claim, KeptAnnotation, "")
			}
			if got := IsKeptFor(claim, test.next); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if got := RequesterOf(claim); got != test.requested.UID {
				t.Errorf("it was made for %q, want %q", got, test.requested.UID)
			}
		})
	}
	if got := RequesterOf(&ipamv1.IPClaim{}); got != "" {
		t.Errorf("an adopted claim was made for %q", got)
	}
}

func TestWhatAClaimSetsAsideIsRead(t *testing.T) {
	of := func(label bool, text string) *ipamv1.IPClaim {
		claim := &ipamv1.IPClaim{}
		if label {
			kube.SetLabel(claim, SetAsideLabel, "")
		}
		if text != "" {
			kube.SetAnnotation(claim, SetAsideAnnotation, text)
		}
		return claim
	}
	const text = `{"ip":"10.0.0.1","cause":"Gateway","network":"lan"}`
	content := SetAside{IP: netip.MustParseAddr("10.0.0.1"), Cause: IsGateway, Network: "lan"}
	for name, test := range map[string]struct {
		claim *ipamv1.IPClaim
		want  SetAside
		is    bool
	}{
		"set aside":                    {of(true, text), content, true},
		"without the label":            {of(false, text), SetAside{}, false},
		"with a text that is no JSON":  {of(true, "{"), SetAside{}, true},
		"with nothing":                 {of(true, ""), SetAside{}, true},
		"with what is no address, too": {of(true, `{"ip":"x","cause":"Gateway"}`), SetAside{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, is := SetAsideOf(test.claim)
			if is != test.is || got.IP != test.want.IP || test.want.IP.IsValid() && got != test.want {
				t.Errorf("got %v, %v, want %v, %v", got, is, test.want, test.is)
			}
		})
	}
}
