package ipam

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// marked is an object with FrozenAnnotation, which says why.
func marked(namespace, name, why string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Annotations: map[string]string{FrozenAnnotation: why},
	}}
}

func TestClaimIsFrozenByTheFlagItsNamespaceOrItsPool(t *testing.T) {
	ref := PoolReference{Kind: "IPPool", Name: "pool"}
	frozen, free := marked("ns", "pool", "restore"), &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
	for name, test := range map[string]struct {
		pool      *metav1.PartialObjectMetadata
		namespace *metav1.PartialObjectMetadata
		flag      string
		want      string
	}{
		"by nothing": {free, free, "", ""},
		"by its pool": {frozen, free, "",
			`IPPool "pool" in namespace "ns" is frozen (restore): wait until that is over; to end it, take annotation capv-static-ip.dev/frozen off it`},
		"by its namespace": {free, marked("", "ns", "restore"), "",
			`namespace "ns" is frozen (restore): wait until that is over; to end it, take annotation capv-static-ip.dev/frozen off it`},
		"by the flag": {free, free, "restore",
			`capv-static-ip is frozen (restore): wait until that is over; to end it, start the manager without --freeze`},
		"by all, it is told of what freezes most": {frozen, marked("", "ns", "move"), "upgrade",
			`capv-static-ip is frozen (upgrade): wait until that is over; to end it, start the manager without --freeze`},
		"without a reason": {marked("ns", "pool", ""), free, "",
			`IPPool "pool" in namespace "ns" is frozen: wait until that is over; to end it, take annotation capv-static-ip.dev/frozen off it`},
		"with several lines": {free, marked("", "ns", " the backup\n\tof  Monday "), "",
			`namespace "ns" is frozen (the backup of Monday): wait until that is over; to end it, take annotation capv-static-ip.dev/frozen off it`},
	} {
		t.Run(name, func(t *testing.T) {
			freeze := FrozenBy(Pool{Object: test.pool, Reference: ref}, test.namespace, test.flag)
			got := ""
			if freeze != nil {
				got = freeze.Refuse().Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestNothingIsFrozenOfWhichNothingIsKnown(t *testing.T) {
	if freeze := FrozenBy(Pool{}, nil, ""); freeze != nil {
		t.Errorf("got %s, want nothing", freeze)
	}
}

// It goes into events, of which the API server takes 1024 bytes.
func TestReasonThatIsTooLongIsCut(t *testing.T) {
	freeze := FrozenBy(Pool{}, nil, strings.Repeat("é", 10_000))
	if got := freeze.Refuse().Error(); len(got) > 1024 || !strings.Contains(got, "é…)") {
		t.Errorf("got %d bytes: %s", len(got), got)
	}
}
