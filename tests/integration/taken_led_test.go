package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// claimsCome looks at a machine from its create to its end.
func claimsCome(s *scene) {
	s.takingPool()
	s.create(s.pooled("cp-0"))
	s.settled("cp-0")
	address := s.addressOf("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.eventually("metal3 to bind the claim to it", func(context.Context) error {
		if claim, err = s.claim("cp-0"); err != nil {
			return err
		}
		if got := harness.ProviderOf(claim).ReadClaim(claim).Address; got != address.GetName() {
			return fmt.Errorf("it names address %q, want %q", got, address.GetName())
		}
		return nil
	})
	claimIsWhole(s)
	machine := s.machine("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.returned(harness.ProviderOf(address).ReadAddress(address).IP)
}

// claimIsWhole waits until the address of a machine that was taken is its claim's.
func claimIsWhole(s *scene) {
	s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.eventually("the address to be its claim's", func(context.Context) error {
		address, err := s.address(s.ip("cp-0"))
		if err == nil && (!ipam.Answers(address, claim.GetUID()) || ipam.IsTaken(address)) {
			err = fmt.Errorf("it has owners %v and annotations %v", address.GetOwnerReferences(), address.GetAnnotations())
		}
		return err
	})
}

// claimIsMadeAndNoMore is what a leader leaves that dies in the midst of it.
func claimIsMadeAndNoMore(s *scene) {
	s.takingPool()
	machine := s.pooled("cp-0")
	s.create(machine)
	taken := s.isTakenBy("cp-0")
	claim := harness.Claim(s.ns, harness.ProviderOf(taken).ReadAddress(taken).Claim, harness.DefaultPool)
	ipam.Mark(claim, ipam.Machine{NamespacedName: client.ObjectKeyFromObject(machine), Cluster: harness.DefaultCluster})
	capi.Own(claim, s.env.Client.Scheme(), machine.Name, machine.UID)
	claim.Finalizers = []string{ipamv1.IPClaimFinalizer, ipam.InUseFinalizer}
	claim.Annotations["ipAddress"] = s.ip("cp-0")
	s.create(claim)
}

// addressOf is the address object that a machine has.
func (s *scene) addressOf(machine string) client.Object {
	s.Helper()
	address, err := s.address(s.ip(machine))
	if err != nil {
		s.Fatal(err)
	}
	return address
}

// addressIsAsMetal3MakesIt has metal3 make the very address that was taken before.
func addressIsAsMetal3MakesIt(s *scene) {
	str := func(ip string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(ip)) }
	own := harness.Range("10.16.56.20", "10.16.56.29")
	own.Prefix, own.Gateway, own.DNSServers = 25, str("10.16.56.3"), []ipamv1.IPAddressStr{"10.16.56.4"}
	for name, entries := range map[string][]ipamv1.Pool{
		"plain":   {harness.Range("10.16.56.60", "10.16.56.69")},
		"own":     {own},
		"overlap": {harness.Range("10.16.56.40", "10.16.56.45"), own, harness.Range("10.16.56.40", "10.16.56.59")},
		"six":     {harness.Range("fd00:16::10", "fd00:16::1f")},
	} {
		s.takingPool(harness.PoolNamed(name), harness.PoolWith(func(p *ipamv1.IPPool) {
			p.Spec.Pools = entries
			if name == "six" {
				p.Spec.Gateway, p.Spec.DNSServers, p.Spec.Prefix = str("fd00:16::1"), nil, 64
			}
		}))
		machine := "cp-" + name
		s.create(harness.Machine(s.ns, machine, harness.WithPool(name)))
		ip := s.settled(machine)
		taken := s.addressOf(machine).(*ipamv1.IPAddress)
		claim, err := s.claim(machine)
		if err != nil {
			s.Fatal(err)
		}
		s.delete(s.machine(machine))
		s.returned(ip)
		s.gone(claim)

		again := harness.Claim(s.ns, claim.GetName(), name)
		again.Labels, again.Annotations = claim.GetLabels(), map[string]string{"ipAddress": ip}
		s.create(again)
		var made *ipamv1.IPAddress
		s.eventually("metal3 to make "+ip, func(context.Context) error {
			address, err := s.address(ip)
			if err == nil {
				made = address.(*ipamv1.IPAddress)
			}
			return err
		})
		kinds := func(a *ipamv1.IPAddress) (all []string) {
			for _, owner := range a.OwnerReferences {
				all = append(all, owner.APIVersion+" "+owner.Kind+" "+owner.Name)
			}
			return all
		}
		ours := func(f string) bool { return f == ipam.InUseFinalizer }
		if got, want := fmt.Sprintf("%+v", values(taken.Spec)), fmt.Sprintf("%+v", values(made.Spec)); taken.Name != made.Name || got != want {
			s.Errorf("%s: took %s %s, metal3 makes %s %s", name, taken.Name, got, made.Name, want)
		}
		if got, want := kinds(taken), kinds(made); !slices.Equal(got, want) {
			s.Errorf("%s: it has owners %q, and %q of metal3", name, got, want)
		}
		if got, want := slices.DeleteFunc(taken.Finalizers, ours), slices.DeleteFunc(made.Finalizers, ours); !slices.Equal(got, want) {
			s.Errorf("%s: it has finalizers %q, and %q of metal3", name, got, want)
		}
		if !maps.Equal(taken.Labels, made.Labels) {
			s.Errorf("%s: it has labels %q, and %q of metal3", name, taken.Labels, made.Labels)
		}
		s.delete(again)
		s.gone(again)
	}
}

// values is a spec without pointers.
func values(spec ipamv1.IPAddressSpec) map[string]any {
	gateway := ipamv1.IPAddressStr("")
	if spec.Gateway != nil {
		gateway = *spec.Gateway
	}
	return map[string]any{
		"address": spec.Address, "prefix": spec.Prefix, "gateway": gateway, "dns": spec.DNSServers,
		"pool": spec.Pool.Namespace + "/" + spec.Pool.Name, "claim": spec.Claim.Namespace + "/" + spec.Claim.Name,
	}
}

func refusedMachineGivesItBack(s *scene) {
	s.takingPool()
	s.rejectMarkedMachines()
	set := s.machineSet("md-0")
	start := time.Now()
	owned := harness.WithOwner(set)
	s.refused(s.pooled("cp-0", harness.WithLabel(rejectedLabel, ""), owned), "rejected by the test")
	taken := s.takenFor("cp-0")
	if taken == nil {
		s.Fatal("no address was taken")
	}
	// Each try under a name of its own would cost an address.
	s.eventually("the owner's next machine to be denied", func(ctx context.Context) error {
		err := s.env.Client.Create(ctx, s.pooled("cp-1", harness.WithLabel(rejectedLabel, ""), owned))
		switch {
		case err == nil:
			return errors.New("it was created")
		case !strings.Contains(err.Error(), "refused by something after this webhook"):
			return fmt.Errorf("it was denied otherwise: %w", err)
		}
		return nil
	})
	s.reaped(taken)
	s.waitedForGrace(start)
}

func machineThatGoesAtOnceGivesItBack(s *scene) {
	s.takingPool()
	machine := s.pooled("cp-0")
	s.create(machine)
	ip := s.ip("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.within(gracePeriod+harness.Soon, ip+" to be back in its pool", s.isReturned(ip))
}

func metal3AndMachinesHaveDifferentOnes(s *scene) {
	s.takingPool(harness.PoolRange("10.16.56.20", "10.16.56.99"))
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if err := s.env.Client.Create(s.Context(), s.pooled(fmt.Sprintf("cp-%d", i))); err != nil {
				s.Error(err)
			}
		})
		all.Go(func() {
			if err := s.env.Client.Create(s.Context(), harness.Claim(s.ns, fmt.Sprintf("other-%d", i), harness.DefaultPool)); err != nil {
				s.Error(err)
			}
		})
	}
	all.Wait()
	s.eventually("all claims to be bound", func(context.Context) error {
		bound := map[string]string{}
		for _, claim := range s.claims() {
			address := harness.ProviderOf(claim).ReadClaim(claim).Address
			if address == "" {
				return fmt.Errorf("claim %s is not bound", claim.GetName())
			}
			if other, has := bound[address]; has {
				s.Fatalf("claims %s and %s both have %s", claim.GetName(), other, address)
			}
			bound[address] = claim.GetName()
		}
		if len(bound) < 60 {
			return fmt.Errorf("%d claims are bound", len(bound))
		}
		return nil
	})
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("cp-%d", i))
		s.settled(names[i])
	}
	s.eachHasItsOwn(names...)
}

func allDevicesAreServed(s *scene) {
	s.takingPool()
	six := harness.Pool(s.ns, harness.PoolNamed("six"), harness.PoolRange("fd00:16::10", "fd00:16::2f"), harness.PoolWith(func(p *ipamv1.IPPool) {
		p.Spec.Gateway, p.Spec.DNSServers, p.Spec.Prefix = nil, nil, 64
	}))
	s.create(six)
	s.isServed(six)
	s.create(harness.Machine(s.ns, "cp-0", harness.WithDevices(harness.StaticDevice(), harness.StaticDevice()),
		withPoolOf("0", harness.DefaultPool+",six"), withPoolOf("1", harness.DefaultPool)))
	addresses := harness.Addresses(s.machine("cp-0"))
	if len(addresses) != 3 {
		s.Fatalf("it has %v, want three addresses", addresses)
	}
	s.eventually("its three claims", func(context.Context) error {
		claims := s.claims()
		for _, claim := range claims {
			if err := s.isOwned(s.Context(), claim, s.machine("cp-0")); err != nil {
				return err
			}
		}
		if len(claims) != 3 {
			return fmt.Errorf("there are %v", names(claims))
		}
		return nil
	})
}

func reservedAddressesAreNotTaken(s *scene) {
	str := func(ip string) *ipamv1.IPAddressStr { return new(ipamv1.IPAddressStr(ip)) }
	pool := s.takingPool(harness.PoolWith(func(p *ipamv1.IPPool) {
		p.Spec.Pools = []ipamv1.Pool{harness.Range("10.16.56.0", "10.16.56.5")}
		p.Spec.Gateway, p.Spec.DNSServers = str("10.16.56.1"), []ipamv1.IPAddressStr{"10.16.56.2"}
		p.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"kept-0": "10.16.56.4", "lb": "10.16.56.5"}
	}))
	s.create(s.pooled("cp-0"), s.pooled("kept"))
	if one, kept := s.ip("cp-0"), s.ip("kept"); one != "10.16.56.3" || kept != "10.16.56.4" {
		s.Errorf("they have %s and %s of pool %s, want 10.16.56.3 and 10.16.56.4", one, kept, pool.Name)
	}
	s.refused(s.pooled("cp-1"), "is exhausted")
	s.settled("cp-0")
	s.settled("kept")
}

// rangeThatIsTakenOutIsNotGiven changes a pool over and over while machines are made.
func rangeThatIsTakenOutIsNotGiven(s *scene) {
	pool := s.takingPool(harness.PoolRange("10.16.56.10", "10.16.56.99"))
	for i := range 12 {
		first, last := "10.16.56.20", "10.16.56.49"
		if i%2 == 1 {
			first, last = "10.16.56.50", "10.16.56.99"
		}
		// metal3 refuses to leave an address out until it has looked at the pool again.
		s.eventually("metal3 to let the pool have other addresses", func(context.Context) error {
			s.change(pool, func() { harness.WithAnnotation("looked-at", time.Now().String())(pool) })
			return s.tryToChange(pool, func() { pool.Spec.Pools = []ipamv1.Pool{harness.Range(first, last)} })
		})
		name := fmt.Sprintf("cp-%d", i)
		s.create(s.pooled(name))
		ip := netip.MustParseAddr(s.ip(name))
		if ip.Less(netip.MustParseAddr(first)) || netip.MustParseAddr(last).Less(ip) {
			s.Errorf("%s has %s, which was taken out of the pool before: it is %s to %s", name, ip, first, last)
		}
		machine := s.machine(name)
		s.settled(name)
		s.delete(machine)
		s.returned(ip.String())
	}
}

func poolGoesWithAMachine(s *scene) {
	pool := s.takingPool()
	machine := s.pooled("cp-0")
	s.create(machine)
	s.delete(pool)
	s.settled("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.gone(pool)
}
