package integration

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"capv-static-ip.dev/allocator/ipam"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

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

// metal3 answers IPAddressClaims by the name of their pool alone, those of an
// InClusterIPPool of the name of one of its own too. What it loses of these holds
// up the end of the IPPool for ever.
func TestAddressThatMetal3LosesForAClaimOfItsOtherAPIComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.Pool(s.ns)
	s.create(pool)
	lost := &capiipamv1.IPAddress{}
	lost.Namespace, lost.Name = s.ns, "dkp-cluster-10-16-56-89"
	lost.Finalizers = []string{"ipam.metal3.io/ipaddress"}
	lost.Labels = map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-1")}
	lost.Spec.ClaimRef.Name = "cp-1-0"
	lost.Spec.PoolRef = capiipamv1.IPPoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: harness.DefaultPool}
	lost.Spec.Address, lost.Spec.Prefix = "10.16.56.89", new(int32(24))
	s.create(lost)

	if err := harness.WaitGone(t.Context(), s.env.Client, lost, gracePeriod+harness.Soon); err != nil {
		t.Fatal(err)
	}
	s.delete(pool)
	s.gone(pool)
}

// One that the claim names is in use, whatever the pools are called.
func TestAddressThatAClaimOfTheOtherAPINamesStays(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	claim := harness.AddressClaim(s.ns, "cp-1-0", "IPPool", harness.DefaultPool)
	claim.Spec.PoolRef.APIGroup = "ipam.metal3.io"
	claim.Labels = map[string]string{ipam.MachineLabel: ipam.MachineLabelValue("cp-1")}
	s.create(claim)
	s.eventually("metal3 to bind the claim", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim); err != nil || claim.Status.AddressRef.Name == "" {
			return fmt.Errorf("it names %q: %w", claim.Status.AddressRef.Name, err)
		}
		return nil
	})
	address := &capiipamv1.IPAddress{}
	address.Namespace, address.Name = s.ns, claim.Status.AddressRef.Name

	err := harness.Consistently(t.Context(), gracePeriod+gracePeriod/4, "its address stays", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
			return err
		}
		if !address.DeletionTimestamp.IsZero() {
			return fmt.Errorf("it is being deleted, with finalizers %v", address.Finalizers)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.delete(claim)
	s.gone(claim)
}
