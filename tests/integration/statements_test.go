package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// noGateway is how a device, or a pool, is kept from giving a default route.
const noGateway = "none"

func TestPoolOfAnotherNetworkIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f, harness.WithAnnotation(ipam.NetworksAnnotation, "seg-a, seg-b"))

		s.denyMachines(poolText(f)+` is for networks "seg-a", "seg-b" only, and device 0 is on "seg-c": name another pool in `+f.AskedBy+
			`, or correct annotation capv-static-ip.dev/networks of the pool`, f.Ask(f.PoolName), harness.WithDevices(onNetwork("seg-c")))

		s.expectNoClaims()
		s.create(s.asks(f, "cp-0", harness.WithDevices(onNetwork("/dc/network/seg-b"))))
	})
}

// A pool that is corrected serves at once those who wait for it.
func TestPoolThatIsOpenedToANetworkMakesTheOwnerTryAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := s.pool(harness.OfMetal3, harness.WithAnnotation(ipam.NetworksAnnotation, "seg-a"))
	owner := s.machineSet("owner")
	s.refused(s.pooled("owner-x7k2p", harness.WithOwner(owner), harness.WithDevices(onNetwork("seg-b"))), `is for networks "seg-a" only`)
	s.eventually("the refusal on the owner", func(context.Context) error { return s.isWaiting(owner, string(ipam.PoolNotForNetwork)) })

	s.annotate(pool, ipam.NetworksAnnotation, new("seg-a,seg-b"))

	s.touched(owner)
	s.create(s.pooled("owner-b8m4q", harness.WithOwner(owner), harness.WithDevices(onNetwork("seg-b"))))
}

func TestPoolOfOthersIsDenied(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, usedBy := range map[string]string{"of another namespace": "team-a", "of another Cluster": "NAMESPACE/other", "of nobody": ""} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, shared)
				s.pool(f, harness.WithAnnotation(ipam.UsedByAnnotation, s.text(usedBy)))

				s.denyMachines(poolText(f)+` is not for Cluster "dkp" of namespace "NAMESPACE": ask its owner to add it to annotation capv-static-ip.dev/used-by, `+
					`or name another pool in `+f.AskedBy, f.Ask(f.PoolName))

				s.expectNoClaims()
			})
		}
		t.Run("not to those whom it names", func(t *testing.T) {
			s := newScene(t, shared)
			s.pool(f, harness.WithAnnotation(ipam.UsedByAnnotation, s.text("team-a, NAMESPACE/dkp")))
			s.create(s.asks(f, "cp-0"))
		})
	})
}

// Whom a pool is for holds in whatever way it is asked for.
func TestPoolOfOthersIsDeniedHoweverItIsAskedFor(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		for name, test := range map[string]struct {
			ask harness.Option
			by  string
		}{
			"by its name":               {harness.WithPool(f.PoolName), "label cluster.x-k8s.io/ip-pool-name of the VSphereMachine"},
			"by its labels":             {grouped("prod"), "labels of the VSphereMachine"},
			"by an annotation":          {withPoolOf("0", ref(f, f.PoolName)), expression},
			"as a group":                {withPoolOf("0", "@prod"), expression},
			"by labels of the template": {harness.FromTemplate("cp"), `labels of VSphereMachineTemplate "cp"`},
		} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, shared)
				s.pool(f, grouped("prod"), harness.WithAnnotation(ipam.UsedByAnnotation, "team-a"))
				s.create(harness.Template(s.ns, "cp", grouped("prod")))

				s.denyTen(poolText(f)+` is not for Cluster "dkp" of namespace "NAMESPACE": ask its owner to add it to annotation capv-static-ip.dev/used-by, `+
					`or name another pool in `+test.by, test.ask)

				s.expectNoClaims()
			})
		}
	})
}

func TestMachinesKeepTheirAddressesWhenTheirPoolIsClosed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(f)
		machine := s.asks(f, "cp-0")
		s.create(machine)
		ip := s.settled("cp-0")

		s.annotate(pool, ipam.UsedByAnnotation, new("team-a"))
		tried := 0
		s.eventually("the pool to be closed", func(ctx context.Context) error {
			tried++
			next := s.asks(f, fmt.Sprintf("next-%d", tried))
			if err := s.env.Client.Create(ctx, next); err == nil || !strings.Contains(err.Error(), " is not for ") {
				return errors.Join(fmt.Errorf("%s is not denied for its pool", next.Name), err)
			}
			return nil
		})
		s.annotate(machine, usersAnnotation, new("an update"))

		if got := s.ip("cp-0"); got != ip {
			t.Errorf("the machine has %s, want %s as before", got, ip)
		}
		s.delete(machine)
		s.gone(machine)
		s.returned(ip)
	})
}

// A bare name may be that of a pool of all namespaces by chance, unless that says whom
// it is for.
func TestGlobalPoolByItsBareNameServesThoseWhomItNames(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.65.10-10.16.65.19"))
	harness.WithAnnotation(ipam.UsedByAnnotation, s.ns)(pool)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	s.createGlobal(pool)
	other := s.neighbour()
	other.create(harness.Cluster(other.ns, harness.DefaultCluster))

	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(pool.GetName())))
	other.denyMachines(fmt.Sprintf(`GlobalInClusterIPPool %q is not for Cluster "dkp" of namespace "NAMESPACE": ask its owner to add it to annotation `+
		`capv-static-ip.dev/used-by, or name another pool in label cluster.x-k8s.io/ip-pool-name of the VSphereMachine`, pool.GetName()), harness.WithPool(pool.GetName()))

	if got := s.ip("cp-0"); got != "10.16.65.10" {
		t.Errorf("the machine has %s, want one of the pool", got)
	}
}

// Who asks by a bare name waits for a pool of either kind.
func TestPoolOfEitherKindMakesTheOwnerTryAgainThatAskedByABareName(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		owner := s.machineSet("owner")
		machine := func(name string) client.Object {
			return harness.Machine(s.ns, name, harness.WithPool(f.PoolName), harness.WithOwner(owner))
		}
		s.refused(machine("owner-x7k2p"), "no IPPool and no InClusterIPPool")
		s.eventually("the refusal on the owner", func(context.Context) error {
			return s.isWaiting(owner, fmt.Sprintf("IPPool.ipam.metal3.io/%[1]s,InClusterIPPool.ipam.cluster.x-k8s.io/%[1]s", f.PoolName))
		})

		s.pool(f)

		s.touched(owner)
		s.within(patience, "a machine to be created", func(ctx context.Context) error { return s.env.Client.Create(ctx, machine("owner-b8m4q")) })
	})
}

func TestDeviceGetsNoGatewayWhereItsUserOrThePoolSaysSo(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		const device = "gateway.capv-static-ip.dev/"
		named := harness.StaticDevice()
		named.DeviceName = "ens192"
		for name, test := range map[string]struct {
			pool    []harness.Option
			machine []harness.Option
		}{
			"the pool":                    {pool: []harness.Option{harness.WithAnnotation(ipam.GatewayAnnotation, noGateway)}},
			"the machine, by its index":   {machine: []harness.Option{harness.WithAnnotation(device+"0", noGateway)}},
			"the machine, by device name": {machine: []harness.Option{harness.WithAnnotation(device+"ens192", noGateway)}},
			"the template":                {machine: []harness.Option{harness.FromTemplate("cp")}},
		} {
			t.Run(name, func(t *testing.T) {
				s := newScene(t, shared)
				s.pool(f, test.pool...)
				s.create(harness.Template(s.ns, "cp", f.Ask(f.PoolName), harness.WithAnnotation(device+"0", noGateway)))
				if name != "the template" {
					test.machine = append(test.machine, f.Ask(f.PoolName))
				}

				s.create(harness.Machine(s.ns, "cp-0", append(test.machine, harness.WithDevices(named))...))

				got := s.machine("cp-0").Spec.Network.Devices[0]
				if len(got.IPAddrs) != 1 || got.Gateway4 != "" {
					t.Errorf("the device has %v with gateway %q, want an address without one", got.IPAddrs, got.Gateway4)
				}
				s.settled("cp-0")
			})
		}
	})
}

func TestGatewayAnnotationThatIsNotUnderstoodIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	s.denyMachines(`annotation gateway.capv-static-ip.dev/0 of the VSphereMachine is "10.0.0.1", but can only be "none": correct it, or set the gateway of the device itself`,
		harness.WithPool(harness.DefaultPool), harness.WithAnnotation("gateway.capv-static-ip.dev/0", "10.0.0.1"))
	s.denyMachines(`annotation gateway.capv-static-ip.dev/7 of the VSphereMachine is for a device that the machine does not have: name a device by its index or its deviceName; `+
		`it has 0 (networkName "VM Network")`, harness.WithPool(harness.DefaultPool), harness.WithAnnotation("gateway.capv-static-ip.dev/7", noGateway))

	s.expectNoClaims()
}

func TestUpdateOfADeviceWithoutAGatewayGivesItNone(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(s.asks(f, "cp-0", harness.WithAnnotation("gateway.capv-static-ip.dev/0", noGateway)))
		ip := s.ip("cp-0")

		if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}); err != nil {
			t.Fatal(err)
		}

		if got := s.machine("cp-0").Spec.Network.Devices[0]; s.ip("cp-0") != ip || got.Gateway4 != "" {
			t.Errorf("the device has %v with gateway %q, want %s without one", got.IPAddrs, got.Gateway4, ip)
		}
	})
}

// A dry run claims nothing, and is told what would deny the machine.
func TestPoolThatIsNotForAMachineIsWarnedOfInADryRun(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.pool(harness.OfMetal3, harness.WithAnnotation(ipam.NetworksAnnotation, "seg-a"))
	c, warned := s.warnedClient()

	if err := c.Create(t.Context(), s.pooled("cp-0", harness.WithDevices(onNetwork("seg-b"))), client.DryRunAll); err != nil {
		t.Fatal(err)
	}

	warned.expect(s, poolText(harness.OfMetal3)+` is for networks "seg-a" only, and device 0 is on "seg-b": name another pool in `+
		harness.OfMetal3.AskedBy+`, or correct annotation capv-static-ip.dev/networks of the pool`)
}

// Nobody waits for a pool of all namespaces by its name who has asked by a bare one.
func TestGlobalPoolThatIsMadeMakesThoseTryAgainWhomItNames(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Cluster(s.ns, harness.DefaultCluster))
	owner := s.machineSet("owner")
	s.refused(harness.Machine(s.ns, "owner-x7k2p", harness.WithPool(s.ns), harness.WithOwner(owner)), "no IPPool and no InClusterIPPool")
	s.eventually("the refusal on the owner", func(context.Context) error {
		return s.isWaiting(owner, fmt.Sprintf("IPPool.ipam.metal3.io/%[1]s,InClusterIPPool.ipam.cluster.x-k8s.io/%[1]s", s.ns))
	})
	pool := harness.GlobalInClusterPool(s.ns, harness.InClusterAddresses("10.16.67.10-10.16.67.19"))
	harness.WithAnnotation(ipam.UsedByAnnotation, s.ns)(pool)

	s.createGlobal(pool)

	s.touched(owner)
	s.create(harness.Machine(s.ns, "owner-b8m4q", harness.WithPool(s.ns), harness.WithOwner(owner)))
}

// closesPools is about deploy/tenancy: claims that nobody makes for machines.
func (p protection) closesPools() {
	open, closed := harness.GlobalInClusterPool("open-"+p.ns, harness.InClusterAddresses("10.16.66.10")), harness.GlobalInClusterPool("closed-"+p.ns, harness.InClusterAddresses("10.16.66.20"))
	theirs := harness.GlobalInClusterPool("theirs-"+p.ns, harness.InClusterAddresses("10.16.66.30"))
	harness.WithAnnotation(ipam.UsedByAnnotation, "team-a, team-b/prod")(closed)
	harness.WithAnnotation(ipam.UsedByAnnotation, "team-a,"+p.ns[:len(p.ns)-2]+"*/prod")(theirs)
	p.createGlobal(open, closed, theirs)
	claim := func(pool client.Object) client.Object {
		return harness.AddressClaim(p.ns, "by-hand", harness.GlobalInClusterPoolKind, pool.GetName())
	}
	p.eventually("the pool to be closed", func(ctx context.Context) error {
		err := p.env.Client.Create(ctx, claim(closed), client.DryRunAll)
		want := fmt.Sprintf(`GlobalInClusterIPPool %q is not for namespace %q (annotation capv-static-ip.dev/used-by)`, closed.GetName(), p.ns)
		switch {
		case err == nil:
			return errors.New("a claim would be admitted")
		case !strings.Contains(err.Error(), want):
			return fmt.Errorf("a claim is refused otherwise: %w", err)
		}
		return nil
	})
	for _, pool := range []client.Object{open, theirs} {
		if err := p.env.Client.Create(p.Context(), claim(pool), client.DryRunAll); err != nil {
			p.Errorf("a claim on %s: %v", pool.GetName(), err)
		}
	}
	old := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"poolRef": map[string]any{
		"apiGroup": "ipam.cluster.x-k8s.io", "kind": harness.GlobalInClusterPoolKind, "name": closed.GetName(),
	}}}}
	old.SetAPIVersion("ipam.cluster.x-k8s.io/v1beta1")
	old.SetKind("IPAddressClaim")
	old.SetNamespace(p.ns)
	old.SetName("by-hand")
	if err := p.env.Client.Create(p.Context(), old, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "is not for namespace") {
		p.Errorf("a claim of the older version: got %v, want it refused", err)
	}
	local := harness.AddressClaim(p.ns, "by-hand", harness.InClusterPoolKind, closed.GetName())
	if err := p.env.Client.Create(p.Context(), local, client.DryRunAll); err != nil {
		p.Errorf("a claim on a pool of the namespace: %v", err)
	}
}
