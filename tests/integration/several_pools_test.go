package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// expression is the annotation that asks for the first device of a machine.
const expression = "annotation pools.capv-static-ip.dev/0 of the VSphereMachine"

// ref is how an annotation names a pool of the provider.
func ref(f harness.Fixture, pool string) string { return f.Reference(pool).Kind + "/" + pool }

// expressing is a machine whose first device asks for this.
func (s *scene) expressing(name, text string, options ...harness.Option) *capvv1.VSphereMachine {
	return harness.Machine(s.ns, name, append([]harness.Option{withPoolOf("0", text)}, options...)...)
}

// addressesOf are those of the first device of a machine, without their prefix lengths.
func (s *scene) addressesOf(name string) []string {
	s.Helper()
	var addresses []string
	for _, text := range s.machine(name).Spec.Network.Devices[0].IPAddrs {
		ip, _, _ := strings.Cut(text, "/")
		addresses = append(addresses, ip)
	}
	return addresses
}

// settledWith waits until a machine has adopted a claim for each of these addresses.
func (s *scene) settledWith(name string, ips ...string) {
	s.Helper()
	s.eventually("machine "+name+" to adopt its claims", func(context.Context) error {
		for _, ip := range ips {
			if err := s.isProtected(ip); err != nil {
				return err
			}
		}
		for _, claim := range s.claims() {
			if len(claim.GetOwnerReferences()) == 0 {
				return fmt.Errorf("claim %s has no owner", claim.GetName())
			}
		}
		return nil
	})
}

// dualStack makes a pool of each family, the first of this provider and the second of the
// other, and returns what asks for both.
func (s *scene) dualStack(f harness.Fixture) (text string) {
	s.Helper()
	other := harness.OfInCluster
	if f.Is(harness.OfInCluster) {
		other = harness.OfMetal3
	}
	s.pool(f, harness.WithSearchDomains("example.org"))
	s.create(other.Pool(s.ns, harness.WithPoolName("six"), harness.WithRange("2001:db8:12::10", "2001:db8:12::19"), harness.WithPrefix(64),
		harness.WithGateway("2001:db8:12::1"), harness.WithNameservers("2001:db8:12::53", f.IP(10)), harness.WithSearchDomains("example.org,example.net")))
	return ref(f, f.PoolName) + ", " + ref(other, "six")
}

// dualStackDevice is a device as it must be stored when it got the first addresses of both
// pools.
func dualStackDevice(f harness.Fixture) capvv1.NetworkDeviceSpec {
	device := f.Injected(harness.StaticDevice(), 88)
	device.IPAddrs = append(device.IPAddrs, "2001:db8:12::10/64")
	device.Gateway6 = "2001:db8:12::1"
	device.Nameservers = append(device.Nameservers, "2001:db8:12::53")
	device.SearchDomains = []string{"example.org", "example.net"}
	return device
}

func TestDualStackDeviceGetsBothAddressesAndGateways(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		text := s.dualStack(f)

		machine := s.expressing("cp-0", text)
		s.create(machine)

		s.expectDevices("cp-0", dualStackDevice(f))
		s.expectHeld("cp-0")
		s.settledWith("cp-0", f.IP(88), "2001:db8:12::10")
		s.delete(machine)
		s.gone(machine)
		s.returned(f.IP(88))
		s.returned("2001:db8:12::10")
	})
}

func TestTwoAddressesOfOnePool(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)

		s.create(s.expressing("cp-0", ref(f, f.PoolName)+","+ref(f, f.PoolName)))

		addresses := s.addressesOf("cp-0")
		slices.Sort(addresses)
		if want := []string{f.IP(88), f.IP(89)}; !slices.Equal(addresses, want) {
			t.Errorf("got the addresses %v, want %v", addresses, want)
		}
		s.expectHeld("cp-0")
		s.settledWith("cp-0", addresses...)
		if claims := names(s.claims()); !slices.Equal(claims, []string{"cp-0-0", "cp-0-0.1"}) {
			t.Errorf("got the claims %v", claims)
		}
	})
}

func TestSecondPoolIsUsedWhenTheFirstIsFull(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("small"), f.WithIPs(20, 20))
		s.create(f.Pool(s.ns, harness.WithPoolName("large"), f.WithIPs(30, 39)))
		text := ref(f, "small") + "|" + ref(f, "large")

		s.create(s.expressing("cp-0", text), s.expressing("cp-1", text))

		if got := s.ip("cp-0"); got != f.IP(20) {
			t.Errorf("the first machine has %s, want the only one of the first pool", got)
		}
		if got := s.ip("cp-1"); got != f.IP(30) {
			t.Errorf("the second machine has %s, want the first of the second pool", got)
		}
	})
}

// A choice may be of another provider, whose claim has the same name.
func TestSecondChoiceMayBeOfAnotherProvider(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		other := harness.OfInCluster
		if f.Is(harness.OfInCluster) {
			other = harness.OfMetal3
		}
		s.pool(f, f.WithIPs(20, 20))
		s.create(other.Pool(s.ns))
		text := ref(f, f.PoolName) + "|" + ref(other, other.PoolName)

		s.create(s.expressing("cp-0", text))
		second := s.expressing("cp-1", text)
		s.create(second)

		if got := s.ip("cp-1"); got != other.IP(88) {
			t.Errorf("the second machine has %s, want one of the second pool", got)
		}
		s.settled("cp-1")
		s.delete(second)
		s.gone(second)
		s.returned(other.IP(88))
	})
}

func TestChoiceThatCannotBeUsedIsWarnedOf(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(f.Pool(s.ns, harness.WithPoolName("far"), f.WithIPs(20, 29), harness.WithAnnotation(ipam.NetworksAnnotation, "far")))
		c, warned := s.warnedClient()

		if err := c.Create(t.Context(), s.expressing("cp-0", ref(f, "far")+"|"+ref(f, f.PoolName))); err != nil {
			t.Fatal(err)
		}

		warned.expect(s, f.Reference("far").Kind+` "far" in namespace "NAMESPACE" is for networks "far" only, and device 0 is on "VM Network": name another pool in `+
			expression+`, or correct annotation capv-static-ip.dev/networks of the pool`)
	})
}

func TestAllOrNothingOfSeveralPools(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(f.Pool(s.ns, harness.WithPoolName("second"), f.WithIPs(20, 29)),
			f.Pool(s.ns, harness.WithPoolName("third"), f.WithIPs(30, 30)))
		s.create(s.expressing("holder", ref(f, "third")))
		s.settled("holder")

		s.denyMachines(f.Reference("third").Kind+` "third" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use; `+
			`add addresses to the pool or delete a machine that holds one`, withPoolOf("0", ref(f, f.PoolName)+","+ref(f, "second")+","+ref(f, "third")))

		s.expectClaims(1)
	})
}

// knownCounts waits until every replica knows how many addresses so many pools have left:
// in-cluster writes that into the status of a new pool a moment later.
func (s *scene) knownCounts(ask harness.Option, pools int) {
	s.Helper()
	preview := s.creation("probe", s.manifest(harness.Machine(s.ns, "probe", ask)))
	preview.DryRun = yes()
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know the pools", func(context.Context) error {
			response := s.ask(replica, preview)
			if strings.Count(strings.Join(response.Warnings, "\n"), " free)") != pools {
				return fmt.Errorf("it warns of %q", response.Warnings)
			}
			return nil
		})
	}
}

// A dry run of them tells the same, and what would deny it, and claims nothing.
func TestDryRunOfSeveralPoolsMakesNothing(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("a"), f.WithIPs(20, 20), grouped("prod"))
		s.poolOf(f, "b", 30, grouped("prod"))
		c, warned := s.warnedClient()
		kind := f.Reference("").Kind
		preview := func(ask harness.Option, warnings ...string) {
			t.Helper()
			machine := harness.Machine(s.ns, "cp-9", ask)
			if err := c.Create(t.Context(), machine, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			warned.expect(s, warnings...)
			expectSame(s, "the devices", machine.Spec.Network.Devices, []capvv1.NetworkDeviceSpec{harness.StaticDevice()})
			if len(machine.Finalizers) > 0 || machine.Annotations[ipam.BindingsAnnotation] != "" {
				t.Errorf("the machine has the finalizers %v and the annotations %v", machine.Finalizers, machine.Annotations)
			}
		}
		parts := withPoolOf("0", ref(f, "a")+","+ref(f, "b"))
		full := fmt.Sprintf(`%s "a" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`, kind)

		claims := func(count, pool, left string) string {
			return fmt.Sprintf("would claim %s of %s %q (%s free)", count, kind, pool, left)
		}

		s.knownCounts(parts, 2)
		preview(parts, claims("1 address", "a", "1"), claims("1 address", "b", "2"))
		preview(withPoolOf("0", "@prod,@prod,@prod"), claims("1 address", "a", "1"), claims("2 addresses", "b", "2"))
		preview(grouped("prod"), claims("1 address", "a", "1"))
		preview(withPoolOf("0", "@dev|"+ref(f, "a")), claims("1 address", "a", "1"), `no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=dev, asked for by `+expression+
			`: label a pool, or correct the annotation there`)
		preview(grouped("dev"), `no pool in namespace "NAMESPACE" carries cluster.x-k8s.io/ip-pool-group=dev, asked for by labels of the VSphereMachine: `+
			`label a pool, or correct the labels there`)
		s.expectNoClaims()

		s.create(s.expressing("holder", ref(f, "a")))
		s.settled("holder")
		preview(parts, full)
		preview(withPoolOf("0", "@prod,@prod,@prod"), fmt.Sprintf(`%s "a" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use and the machine needs 3; `+
			`add addresses to the pool or delete a machine that holds one`, kind))
		s.expectClaims(1)
	})
}

func TestNoneOfTheChoicesIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, f.WithIPs(20, 20))
		s.create(s.expressing("holder", ref(f, f.PoolName)))
		s.settled("holder")
		kind := f.Reference("").Kind

		s.denyMachines(fmt.Sprintf(`no pool asked for by %s can serve: %s %q is exhausted, %s "none" not found; add addresses to one of them, or name or label another`,
			expression, kind, f.PoolName, kind), withPoolOf("0", ref(f, f.PoolName)+"|"+ref(f, "none")))

		s.expectClaims(1)
	})
}

func TestExpressionThatIsNoneIsDenied(t *testing.T) {
	t.Parallel()
	for text, denial := range map[string]string{
		"a,,b":                         expression + ` is not a list of pools: "a,,b" has an empty part; write REF|REF for "else" and REF,REF for "and"`,
		"a" + strings.Repeat(",a", 8):  expression + " asks for 9 addresses for one device: at most 8 are given",
		"@":                            expression + ` is not a list of pools: "@" names no group; write @ and the value of label cluster.x-k8s.io/ip-pool-group on pools`,
		"a" + strings.Repeat("|a", 16): expression + " has 17 choices for one address: name at most 16",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.denyMachines(denial, withPoolOf("0", text))
			s.expectNoClaims()
		})
	}
}

// While the provider answers the claim on one pool, the last address of the other one goes
// to somebody else.
func poolThatFillsUpMeanwhileLeavesNoClaim(s *scene) {
	s.create(harness.Pool(s.ns, harness.PoolNamed("first")), harness.Pool(s.ns, harness.PoolNamed("second"), harness.PoolRange("10.16.56.20", "10.16.56.20")))
	stop := s.playProvider(func(ctx context.Context, claim *ipamv1.IPClaim) error {
		if claim.Spec.Pool.Name == "second" {
			before, full := claim.DeepCopy(), "Exhausted IP Pools"
			claim.Status.ErrorMessage = &full
			return s.env.Client.Status().Patch(ctx, claim, client.MergeFrom(before))
		}
		address := addressFor(claim, "10.16.56.88")
		if err := s.env.Client.Create(ctx, address); err != nil {
			return err
		}
		return s.tell(ctx, claim, address.Name)
	})
	defer stop()

	s.denyMachine(`IPPool "second" in namespace "NAMESPACE" is exhausted: 1 of 1 addresses in use; add addresses to the pool or delete a machine that holds one`,
		"cp-0", withPoolOf("0", "IPPool/first, IPPool/second"))

	s.expectNoClaims()
}

func TestUpdateThatDropsOneOfTwoAddressesIsMended(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.create(s.expressing("cp-0", s.dualStack(f)))
		want := dualStackDevice(f)
		one, none := want.DeepCopy(), harness.StaticDevice()
		one.IPAddrs, one.Gateway6 = one.IPAddrs[:1], ""

		for what, device := range map[string]capvv1.NetworkDeviceSpec{"one address": *one, "all": none} {
			if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{device}); err != nil {
				t.Fatalf("dropping %s: %v", what, err)
			}
			s.expectDevices("cp-0", want)
			s.expectHeld("cp-0")
		}
	})
}

func TestLongNamesOfFurtherClaims(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		name := strings.Repeat("a", 253)

		machine := s.expressing(name, ref(f, f.PoolName)+","+ref(f, f.PoolName))
		s.create(machine)

		s.expectHeld(name)
		s.settledWith(name, s.addressesOf(name)...)
		s.delete(machine)
		s.gone(machine)
		s.returned(f.IP(88))
		s.returned(f.IP(89))
	})
}

func TestOverlappingPoolsAreDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithPoolName("one"), f.WithIPs(20, 20))
		s.create(f.Pool(s.ns, harness.WithPoolName("two"), f.WithIPs(20, 20)))
		kind := f.Reference("").Kind

		s.refused(s.expressing("cp-0", ref(f, "one")+","+ref(f, "two")),
			s.text(fmt.Sprintf(`%[1]s "one" and %[1]s "two" in namespace "NAMESPACE" overlap: both gave the same address; correct one of them`, kind)))

		s.noClaims()
	})
}

// What says that several claims and addresses are a machine's is written again when it is lost.
func TestLostMarksOfSeveralAddressesComeBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.create(s.expressing("cp-0", s.dualStack(f)))
		ips := s.addressesOf("cp-0")
		s.settledWith("cp-0", ips...)
		machine := s.machine("cp-0")
		before := machine.Annotations[ipam.BindingsAnnotation]

		s.change(machine, func() {
			delete(machine.Annotations, ipam.BindingsAnnotation)
			machine.Finalizers = slices.DeleteFunc(machine.Finalizers, func(name string) bool { return name == ipam.ReleaseFinalizer })
		})

		s.eventually("the bindings to come back", func(context.Context) error {
			got, err := ipam.ParseBindings(s.machine("cp-0").Annotations[ipam.BindingsAnnotation])
			want, _ := ipam.ParseBindings(before)
			if err != nil || len(got.Bindings) != len(want.Bindings) {
				return errors.Join(err, fmt.Errorf("it has the bindings %+v", got.Bindings))
			}
			return nil
		})
		s.expectHeld("cp-0")
	})
}

func TestOneOfTwoAddressesThatALaterWebhookTakesOffIsPutBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	text := s.dualStack(harness.OfMetal3)
	s.lateWebhook(func(request *admissionv1.AdmissionRequest) string {
		machine := decodeMachine(s, request.Object.Raw)
		if machine.Name != "cp-0" || len(machine.Spec.Network.Devices[0].IPAddrs) < 2 || machine.Labels["seen"] != "" {
			return ""
		}
		return `[{"op": "remove", "path": "/spec/network/devices/0/ipAddrs/0"}, {"op": "add", "path": "/metadata/labels/seen", "value": "yes"}]`
	})

	s.create(s.expressing("cp-0", text, late))

	s.expectDevices("cp-0", dualStackDevice(harness.OfMetal3))
	s.expectHeld("cp-0")
	if got := names(s.claims()); len(got) != 2 {
		t.Errorf("got the claims %v, want one of each pool", got)
	}
}
