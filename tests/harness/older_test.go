package harness_test

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/tests/harness"
)

func TestObjectIsMadeOlder(t *testing.T) {
	t.Parallel()
	claim := harness.Claim(namespace(t), "old", harness.DefaultPool)
	create(t, claim)
	made := claim.CreationTimestamp.Time

	if err := plane.MakeOlder(t.Context(), claim, time.Hour); err != nil {
		t.Fatal(err)
	}

	got := &ipamv1.IPClaim{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(claim), got); err != nil {
		t.Fatal(err)
	}
	if !got.CreationTimestamp.Time.Equal(made.Add(-time.Hour)) || !got.ManagedFields[0].Time.Time.Equal(made.Add(-time.Hour)) {
		t.Errorf("it was made at %s and written at %s, want an hour before %s", got.CreationTimestamp, got.ManagedFields[0].Time, made)
	}
}
