package ipam

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/kube"
)

func TestPoolSaysForHowLongItsAddressesCoolDown(t *testing.T) {
	for text, test := range map[string]struct {
		want    time.Duration
		words   string
		invalid bool
	}{
		"5m":    {want: 5 * time.Minute, words: "5m"},
		"90s\n": {want: 90 * time.Second, words: "90s"},
		"60m":   {want: time.Hour, words: "60m"},
		"0":     {},
		"0s":    {},
		"":      {invalid: true, words: "1h"},
		"5":     {invalid: true, words: "1h"},
		"-1s":   {invalid: true, words: "1h"},
		"soon":  {invalid: true, words: "1h"},
	} {
		t.Run(text, func(t *testing.T) {
			pool := stating(ReuseAfterAnnotation, text)
			got, says, err := ReuseAfter(pool)
			if !says || (err != nil) != test.invalid || got != test.want && !test.invalid {
				t.Errorf("got %s, %t and error %v", got, says, err)
			}
			if got := CoolsFor(pool, time.Hour); got != test.words {
				t.Errorf("in words it is %q, want %q", got, test.words)
			}
			refusal, refused := AsRefusal(CheckStatement(pool, Machine{}, Want{}))
			if refused != test.invalid || refused && refusal.Reason != PoolInvalid {
				t.Errorf("got %v, want it refused: %t", refusal, test.invalid)
			}
		})
	}
}

func TestDefaultIsToldAsAUserWouldWriteIt(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "", 90 * time.Second: "1m30s", 5 * time.Minute: "5m", time.Hour: "1h", 90 * time.Minute: "1h30m", 10 * time.Second: "10s",
	} {
		if got := CoolsFor(stating("other", ""), d); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Owners that others wrote on the claim stay, and its Cluster's label.
func TestClaimThatCoolsDownBelongsToNoMachine(t *testing.T) {
	claim := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
		{Kind: "VSphereMachine", Name: "cp-0", UID: "uid"}, {Kind: "Cluster", Name: "prod"},
	}}}
	machine := Machine{NamespacedName: types.NamespacedName{Name: "cp-0"}, Cluster: "prod"}
	at := time.Date(2026, 1, 1, 12, 0, 0, 5, time.UTC)

	CoolClaim(claim, machine, at)
	machine.Cluster = ""
	CoolClaim(claim, machine, at)

	if len(claim.OwnerReferences) != 1 || claim.OwnerReferences[0].Kind != "Cluster" {
		t.Errorf("it has the owners %v", claim.OwnerReferences)
	}
	if got, ok := ReleasedAt(claim); !ok || !got.Equal(at) || !IsMarked(claim, "cp-0") || claim.Labels["cluster.x-k8s.io/cluster-name"] != "prod" {
		t.Errorf("it has the labels %v and the annotations %v", claim.Labels, claim.Annotations)
	}
	kube.SetAnnotation(claim, GivenUpAnnotation, "by another leader")
	Readopt(claim)
	if IsReleased(claim) || IsGivenUp(claim) {
		t.Errorf("it has the annotations %v", claim.Annotations)
	}
}

func TestAddressThatIsProtectedOrReleasedDoesNotCoolDown(t *testing.T) {
	for name, end := range map[string]func(*metav1.PartialObjectMetadata){
		"protected": func(address *metav1.PartialObjectMetadata) { Protect(address, "cp-0") },
		"released":  func(address *metav1.PartialObjectMetadata) { Unprotect(address) },
	} {
		t.Run(name, func(t *testing.T) {
			address := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{MachineUIDAnnotation: "uid"}}}
			CoolAddress(address, Holder{Name: "cp-0"}, time.Now())
			if !IsReleased(address) || !IsProtected(address) || MachineOf(address) != "cp-0" || address.Annotations[MachineUIDAnnotation] != "" {
				t.Errorf("it has the annotations %v and the finalizers %v", address.Annotations, address.Finalizers)
			}
			end(address)
			if IsReleased(address) {
				t.Errorf("it still cools down: %v", address.Annotations)
			}
		})
	}
}

// Its provider would bind it anew while clusterctl moves it.
func TestClaimThatCoolsDownWithoutAClusterIsOfOneThatIsMissing(t *testing.T) {
	long := strings.Repeat("a", 64)
	for name, test := range map[string]struct{ holder, cluster, want string }{
		"it had none":                       {"former", "", "former"},
		"it had one":                        {"former", "prod", "prod"},
		"it had none, and has a long name":  {long, "", Holder{Kind: OfCluster, Name: long}.label()},
		"it had one, and has a longer name": {long + long, "prod", "prod"},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &metav1.PartialObjectMetadata{}
			CoolClaim(claim, Machine{Kind: OfCluster, Cluster: test.cluster, NamespacedName: types.NamespacedName{Namespace: "ns", Name: test.holder}}, time.Now())
			if got := claim.Labels[clusterv1.ClusterNameLabel]; got != test.want {
				t.Errorf("it is of Cluster %q, want %q", got, test.want)
			}
		})
	}
}
