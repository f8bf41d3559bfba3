package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// metal3 works through a list of claims that it read before the first of them.
// A claim that is taken back meanwhile must not leave it the address.
func TestCreatesThatAProviderIsTooSlowForLeaveNoAddress(t *testing.T) {
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.30.0.1", "10.30.0.250")))
	impatient := s.client(func(config *rest.Config) { config.Timeout = 3 * time.Second })

	var creates sync.WaitGroup
	errs := make([]error, hundred)
	for i := range errs {
		creates.Go(func() {
			errs[i] = impatient.Create(t.Context(), harness.Machine(s.ns, fmt.Sprintf("m-%d", i), harness.WithPool(harness.DefaultPool)))
		})
	}
	creates.Wait()

	denied := 0
	for _, err := range errs {
		if err != nil {
			denied++
		}
	}
	if denied == 0 {
		t.Fatal("the provider was quick enough for all of them: nothing is shown")
	}
	t.Logf("%d of %d creates came to nothing", denied, hundred)
	s.within(2*harness.Soon, "every address to be that of a machine", func(ctx context.Context) error {
		addresses, machines := &ipamv1.IPAddressList{}, &capvv1.VSphereMachineList{}
		for _, list := range []client.ObjectList{addresses, machines} {
			if err := s.env.Client.List(ctx, list, client.InNamespace(s.ns)); err != nil {
				return err
			}
		}
		if len(addresses.Items) != len(machines.Items) || len(s.claims()) != len(machines.Items) {
			return fmt.Errorf("%d machines, %d claims, %d addresses", len(machines.Items), len(s.claims()), len(addresses.Items))
		}
		return nil
	})
}
