package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
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
		if !slices.Contains(names, ipam.MachineOf(claim)) {
			t.Errorf("claim %s says that it is of machine %q", claim.GetName(), ipam.MachineOf(claim))
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
	// patience is for machines that are denied several times over.
	patience = 4 * harness.Soon
)

// It is not parallel, so that nobody else keeps the provider busy. On a machine
// that is too slow even so, the provider leaves some claims waiting until their
// creates are denied; whoever was denied tries again, as CAPI does. Such a try
// may cost an address of the row, and so may metal3, when both its controllers
// bind a claim; the controller finds those, and none is lost in the end.
func TestHundredMachinesAtOnceGetHundredAddressesInARow(t *testing.T) {
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.20.0.1", "10.20.0.250")))

	start := time.Now()
	denied := s.createHundred(func() {})
	t.Logf("created in %s, %d tries were denied", time.Since(start), denied)
	holders := s.expectHundredAddresses()
	excused := denied + len(s.addresses()) - len(holders)
	skipped := 0
	for found, next := 0, netip.MustParseAddr("10.20.0.1"); found < len(holders) && skipped <= excused; next = next.Next() {
		if holders[next.String()+"/24"] == "" {
			skipped++
		} else {
			found++
		}
	}
	// What is taken without metal3 is in no row.
	if inARow := os.Getenv(harness.AllocationVariable) != "address"; inARow && skipped > excused {
		t.Errorf("more addresses were skipped than the %d for which there is a reason", excused)
	}

	start = time.Now()
	s.deleteHundred()
	t.Logf("released in %s", time.Since(start))
}

// createHundred creates all machines, from many clients at once. A create that
// fails is sent again, until it has succeeded; it counts those that failed.
// After each success it calls done, one call at a time.
func (s *scene) createHundred(done func()) int {
	s.Helper()
	var mu sync.Mutex
	failed := 0
	create := func(ctx context.Context, name string) error {
		err := client.IgnoreAlreadyExists(s.env.Client.Create(ctx, s.pooled(name)))
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed++
			return err
		}
		done()
		return nil
	}
	group, ctx := errgroup.WithContext(s.Context())
	group.SetLimit(clients)
	for i := range hundred {
		name := fmt.Sprintf(hundredName, i)
		group.Go(func() error {
			return harness.Eventually(ctx, patience, "machine "+name+" to be created", func(ctx context.Context) error {
				return create(ctx, name)
			})
		})
	}
	if err := group.Wait(); err != nil {
		s.Fatal(err)
	}
	return failed
}

// expectHundredAddresses checks that the machines hold a hundred different
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

// deleteHundred deletes all machines, and waits until they, their claims, and all
// addresses are gone.
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
	s.within(2*harness.Soon, "all addresses to be back in their pool", func(context.Context) error {
		if left := len(s.addresses()); left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
}
