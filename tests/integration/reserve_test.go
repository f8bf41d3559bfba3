package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/reservation"
	"capv-static-ip.dev/tests/harness"
)

// reserve runs kubectl static-ip reserve, which is to end with this code.
func (s *scene) reserve(code int, args ...string) (stdout, stderr string) {
	s.Helper()
	stdout, stderr, got := s.plugin(append([]string{"reserve"}, args...)...)
	if got != code {
		s.Fatalf("reserve %v exits with %d, want %d:\n%s\n%s", args, got, code, stdout, stderr)
	}
	return stdout, stderr
}

// usage is a pool of the scene as pools prints it, beside those that are everybody's.
func (s *scene) usage(pool string) v1alpha1.Pool {
	s.Helper()
	for _, printed := range decoded[v1alpha1.Pool](s, 0, "Pool", "pools") {
		if printed.Pool == pool {
			return printed
		}
	}
	s.Fatalf("pools does not print %s", pool)
	return v1alpha1.Pool{}
}

func TestReservedAddressIsGivenToNobodyUntilThatIsUndone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(88, 90))
		kind := f.Reference(f.PoolName).Kind

		stdout, stderr := s.reserve(0, f.PoolName, f.IP(88), "--reason", "VM md-0-x answers with it")
		want := fmt.Sprintf("NAMESPACE/%s/%s  %s  free  ", kind, f.PoolName, f.IP(88))
		if !strings.Contains(stdout, want) || !strings.Contains(stdout, "VM md-0-x answers with it\n") || !strings.Contains(stderr, "Nothing was changed") {
			t.Errorf("the plan is\n%s\n%s\nwant in it %s", stdout, stderr, want)
		}
		before := s.usage(kind + "/" + f.PoolName)
		s.reserve(0, f.PoolName, f.IP(88), "--reason", "VM md-0-x answers with it", "--yes")
		if now := s.usage(kind + "/" + f.PoolName); now.Free != "2" || before.Free != "3" || now.Reserved == before.Reserved {
			t.Errorf("before it was %+v, and then %+v, want one that is reserved and not free", before, now)
		}
		if stdout, _, _ := s.plugin("who", f.IP(88)); !strings.Contains(stdout, "reserved: the pool gives it to nobody (VM md-0-x answers with it)") {
			t.Errorf("who prints %s, want why it is reserved", stdout)
		}
		if stdout, _ := s.reserve(0, f.PoolName, f.IP(88), "--yes"); !strings.Contains(stdout, "reserved  -  VM md-0-x answers with it") {
			t.Errorf("once more it prints\n%s\nwant that there is nothing to do", stdout)
		}

		s.create(s.asks(f, "cp-0"), s.asks(f, "cp-1"))
		got := []string{s.settled("cp-0"), s.settled("cp-1")}
		if slices.Contains(got, f.IP(88)) {
			t.Errorf("the machines got %v, of which one is reserved", got)
		}
		s.refused(s.asks(f, "cp-2"), "exhausted")
		for text, args := range map[string][]string{
			"is held by VSphereMachine NAMESPACE/cp-0": {f.PoolName, got[0], "--yes"},
			"is in none of its ranges":                 {f.PoolName, "10.99.0.1", "--yes"},
		} {
			if _, stderr := s.reserve(1, args...); !strings.Contains(stderr, text) || !strings.Contains(stderr, "nothing was changed") {
				t.Errorf("%v is told\n%s\nwant %s", args, stderr, text)
			}
		}

		s.reserve(0, f.PoolName, f.IP(88), "--undo", "--yes")
		s.eventually("a machine to get the address", func(ctx context.Context) error { return s.env.Client.Create(ctx, s.asks(f, "cp-2")) })
		if got := s.settled("cp-2"); got != f.IP(88) {
			t.Errorf("it got %s, want the one that is free again", got)
		}
	})
}

func TestPoolOfAKindThatNobodyKnowsIsNotReservedIn(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.pool(harness.OfMetal3)
	_, stderr := s.reserve(1, "IPPool/nowhere", "10.16.56.88")
	if !strings.Contains(stderr, `no pool "IPPool/nowhere" here`) {
		t.Errorf("it is told %s", stderr)
	}
	for _, wrong := range [][]string{{harness.DefaultPool}, {harness.DefaultPool, "what"}, {"--vcenter", harness.DefaultPool}, {"--vcenter", "--undo"}} {
		if _, stderr, code := s.plugin(append([]string{"reserve"}, wrong...)...); code != 2 {
			t.Errorf("%q exits with %d and says %s, want to be told of the mistake", wrong, code, stderr)
		}
	}
}

// While others are given addresses of the pool, each one is reserved, or somebody's, and not both.
func TestReservingWhileThePoolIsHandedOut(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		const machines, claims, wanted = 5, 6, 5
		s.pool(f, f.WithIPs(100, 100+machines+claims+wanted-1))
		c := (&relocation{scene: s}).pluginClient(nil)
		providers := ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{})
		graph, err := inventory.Source{Client: c, Reader: c, Namespace: s.ns, Providers: providers, Now: time.Now}.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var items []reservation.Wanted
		for i := range wanted {
			items = append(items, reservation.Wanted{
				Pool:    inventory.PoolKey{Namespace: s.ns, PoolReference: f.Reference(f.PoolName)},
				Address: netip.MustParseAddr(f.IP(100 + 2*i)), Reason: "a race",
			})
		}
		var others sync.WaitGroup
		var failed error
		var lock sync.Mutex
		creates := func(object client.Object) {
			others.Go(func() {
				err := harness.Eventually(t.Context(), harness.Soon, "it to be made", func(ctx context.Context) error { return s.env.Client.Create(ctx, object) })
				lock.Lock()
				defer lock.Unlock()
				failed = errors.Join(failed, err)
			})
		}
		for i := range claims {
			creates(f.Claim(s.ns, fmt.Sprintf("theirs-%d", i), f.PoolName))
		}
		for i := range machines {
			creates(s.asks(f, fmt.Sprintf("m-%d", i)))
		}
		r := &reservation.Reservation{Client: c, Providers: providers, Timeout: harness.Soon, Settle: 2 * time.Second, Report: t.Logf}

		err = r.Run(t.Context(), reservation.Plan(graph, items))

		others.Wait()
		if failed != nil {
			t.Fatal(failed)
		}
		for i := range claims {
			s.bind(f.Claim(s.ns, fmt.Sprintf("theirs-%d", i), f.PoolName))
		}
		pool := f.Pool(s.ns)
		if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
			t.Fatal(err)
		}
		reserved, noList := ipam.ReservationsOf(pool)
		if noList != nil {
			t.Fatal(noList)
		}
		held := map[netip.Addr]bool{}
		for _, address := range s.addresses() {
			held[capi.ParseAddress(harness.ProviderOf(address).ReadAddress(address).IP)] = true
		}
		for _, item := range items {
			_, kept := reserved[item.Address]
			said := err != nil && strings.Contains(err.Error(), item.Address.String()+" was given to ")
			if kept == held[item.Address] || said != held[item.Address] {
				t.Errorf("%s is reserved: %t, somebody's: %t, and that is said: %t (%v)", item.Address, kept, held[item.Address], said, err)
			}
		}
		t.Logf("%d are reserved, of %d", len(reserved), wanted)
	})
}
