package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/tests/harness"
)

func TestLongestMachineNamesHaveClaimsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	long := strings.Repeat("a", validation.DNS1123SubdomainMaxLength-1)
	names := []string{long + "0", long + "1", long}

	seen := map[string]string{}
	for _, name := range names {
		s.create(s.pooled(name))
		ip := s.settled(name)
		if other, ok := seen[ip]; ok {
			t.Errorf("%s and %s both got %s", other, name, ip)
		}
		seen[ip] = name
		if note := s.told(name, "AddressBound"); !strings.Contains(note, ip) {
			t.Errorf("event AddressBound says %q, want it to name %s", note, ip)
		}
	}
	for _, claim := range s.claims() {
		if !slices.Contains(names, allocator.MachineOf(&claim)) {
			t.Errorf("claim %s says that it is of machine %q", claim.Name, allocator.MachineOf(&claim))
		}
	}
	for _, name := range names {
		machine := s.machine(name)
		s.delete(machine)
		s.gone(machine)
	}
	s.noClaims()
}

// hundred is what the tests of scale create; their range begins at 10.20.0.1.
const (
	hundred     = 100
	hundredName = "md-%02d"
	clients     = 32
)

// It is not parallel: nobody else keeps the provider busy, and no client has an
// excuse to try again.
func TestHundredMachinesAtOnceGetHundredAddressesInARow(t *testing.T) {
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.20.0.1", "10.20.0.200")))

	start := time.Now()
	s.createHundred(s.env.Client.Create)
	t.Logf("created in %s", time.Since(start))
	holders := s.expectHundredAddresses()
	for i, next := 0, netip.MustParseAddr("10.20.0.1"); i < hundred; i, next = i+1, next.Next() {
		if holders[next.String()+"/24"] == "" {
			s.Errorf("address %s was skipped", next)
		}
	}

	start = time.Now()
	s.deleteHundred()
	t.Logf("released in %s", time.Since(start))
	pool := &ipamv1.IPPool{}
	s.eventually("all addresses to be back in their pool", func(ctx context.Context) error {
		if err := s.env.Client.Get(ctx, s.key(harness.DefaultPool), pool); err != nil {
			return err
		}
		if len(pool.Status.Allocations) > 0 {
			return fmt.Errorf("%v are left", pool.Status.Allocations)
		}
		return nil
	})
}

// createHundred creates all machines, from many clients at once.
func (s *scene) createHundred(create func(context.Context, client.Object, ...client.CreateOption) error) {
	s.Helper()
	group, ctx := errgroup.WithContext(s.Context())
	group.SetLimit(clients)
	for i := range hundred {
		group.Go(func() error {
			return create(ctx, s.pooled(fmt.Sprintf(hundredName, i)))
		})
	}
	if err := group.Wait(); err != nil {
		s.Fatal(err)
	}
}

// expectHundredAddresses sees that the machines hold a hundred different
// addresses, and returns who holds which.
func (s *scene) expectHundredAddresses() map[string]string {
	s.Helper()
	machines := &capvv1.VSphereMachineList{}
	if err := s.env.Client.List(s.Context(), machines, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	holders := map[string]string{}
	for i := range machines.Items {
		for _, address := range harness.Addresses(&machines.Items[i]) {
			if other, ok := holders[address]; ok {
				s.Errorf("machines %s and %s both hold %s", other, machines.Items[i].Name, address)
			}
			holders[address] = machines.Items[i].Name
		}
	}
	if len(holders) != hundred {
		s.Errorf("%d machines hold %d addresses, want %d", len(machines.Items), len(holders), hundred)
	}
	return holders
}

// deleteHundred deletes all machines and waits until they and their claims are gone.
func (s *scene) deleteHundred() {
	s.Helper()
	if err := s.env.Client.DeleteAllOf(s.Context(), &capvv1.VSphereMachine{}, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	s.eventually("all machines and claims to be gone", func(ctx context.Context) error {
		machines := &capvv1.VSphereMachineList{}
		if err := s.env.Client.List(ctx, machines, client.InNamespace(s.ns)); err != nil {
			return err
		}
		if left := len(machines.Items) + len(s.claims()); left > 0 {
			return fmt.Errorf("%d machines and claims are left", left)
		}
		return nil
	})
}
