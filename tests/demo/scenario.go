package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// namespace is where everything happens, so that kubectl needs no flag for it.
const namespace = "default"

// stage is what the steps act on, and what they leave for later ones.
type stage struct {
	out          *printer
	plane        *harness.ControlPlane
	installation *harness.Installation
	managers     []*harness.Manager

	// template asks for static addresses, dhcpTemplate for none.
	template, dhcpTemplate *capvv1.VSphereMachineTemplate
	controlPlane           *unstructured.Unstructured
	workers, dhcpWorkers   *clusterv1.MachineSet

	// holders has the machine that each address was given to.
	holders map[netip.Addr]string
	// denial is the text that refused a machine when the pool was full.
	denial string
	// deleted is the machine that gives its address back.
	deleted *capvv1.VSphereMachine
	freed   netip.Addr
}

// step is a part of the scenario. It fails if anything is not as it says.
type step struct {
	title string
	play  func(context.Context, *stage) error
}

func scenario() []step {
	return []step{
		{"A pool of six addresses, and a template that names it", makePoolAndTemplates},
		{"Three control-plane machines, cloned from the template as Cluster API does it", makeControlPlane},
		{"A worker on DHCP is left alone", makeDHCPWorker},
		{"Three workers of a MachineSet fill the pool", makeWorkers},
		{"One machine more is refused, and leaves nothing behind", refuseOneMore},
		{"A deleted machine keeps its address until CAPV has destroyed the VM", deleteMachine},
		{"The VM is gone: the address comes back", finishDeletion},
		{"A new machine uses the address again", makeReplacement},
		{"The pool is full: the next choice serves, and a second part asks for IPv6", makeDualStack},
		{"A machine that was stored without an address gets it later", serveLate},
	}
}

func makePoolAndTemplates(ctx context.Context, s *stage) error {
	s.holders = map[netip.Addr]string{}
	s.template = harness.Template(namespace, "dkp-static", harness.WithPool(harness.DefaultPool))
	s.dhcpTemplate = harness.Template(namespace, "dkp-dhcp", harness.WithDevices(harness.DHCPDevice()))
	s.controlPlane = harness.ControlPlaneOwner(namespace, "dkp-control-plane", s.template.Name)
	s.workers = harness.MachineSet(namespace, "dkp-workers", s.template.Name)
	s.dhcpWorkers = harness.MachineSet(namespace, "dkp-dhcp", s.dhcpTemplate.Name)
	pool := harness.Pool(namespace)
	for _, object := range []client.Object{
		pool, harness.Cluster(namespace, harness.DefaultCluster), s.template, s.dhcpTemplate,
		s.controlPlane, s.workers, s.dhcpWorkers,
	} {
		if err := s.plane.Client.Create(ctx, object); err != nil {
			return fmt.Errorf("creating %s: %w", object.GetName(), err)
		}
	}
	part := pool.Spec.Pools[0]
	s.out.say("IPPool %s: %s to %s, prefix length %d, gateway %s, name servers %v",
		pool.Name, *part.Start, *part.End, pool.Spec.Prefix, *pool.Spec.Gateway, pool.Spec.DNSServers)
	s.out.say("VSphereMachineTemplate %s: label %s=%s, its one device with dhcp4: false",
		s.template.Name, harness.PoolLabel, s.template.Labels[harness.PoolLabel])
	return nil
}

func makeControlPlane(ctx context.Context, s *stage) error {
	s.out.say("Server-side apply by %s, owned by the KubeadmControlPlane:", harness.ControlPlaneManager)
	s.out.tableHead()
	for _, suffix := range []string{"4xk7p", "9zt2m", "qw6hd"} {
		machine := s.controlPlaneMachine("dkp-control-plane-" + suffix)
		if _, err := s.store(ctx, machine, harness.ControlPlaneManager); err != nil {
			return err
		}
	}
	s.out.check("each was stored with an address of its own from the pool, the pool's gateway and name servers,")
	s.out.check("and with the finalizer %s", ipam.ReleaseFinalizer)
	return nil
}

func makeDHCPWorker(ctx context.Context, s *stage) error {
	before, err := s.calls(ctx)
	if err != nil {
		return err
	}
	s.out.tableHead()
	machine := harness.Clone(s.dhcpTemplate, "dkp-dhcp-m8v5r", harness.WithOwner(s.dhcpWorkers))
	stored, took, err := s.create(ctx, machine, harness.MachineSetManager)
	if err != nil {
		return err
	}
	s.out.tableRow(stored.Name, "by DHCP", "-", "-", round(took).String())
	after, err := s.calls(ctx)
	if err != nil {
		return err
	}
	_, annotated := stored.Annotations[ipam.BindingsAnnotation]
	if err := errors.Join(
		expect("addresses of the machine", harness.Addresses(stored), []string(nil)),
		expect("finalizers of the machine", stored.Finalizers, []string(nil)),
		expect("bindings on the machine", annotated, false),
		expect("calls of the webhook for it, both replicas together", after-before, 0.0),
	); err != nil {
		return err
	}
	s.out.check("stored as it was sent; the webhook was not called (%.0f calls before, %.0f after)", before, after)
	return nil
}

func makeWorkers(ctx context.Context, s *stage) error {
	s.out.tableHead()
	for _, suffix := range []string{"7c9fk", "hx3nb", "t5w8z"} {
		if _, err := s.store(ctx, s.worker("dkp-workers-"+suffix), harness.MachineSetManager); err != nil {
			return err
		}
	}
	found, err := s.held(ctx)
	if err != nil {
		return err
	}
	if err := expect("claims and addresses in the pool", found, amount{claims: 6, addresses: 6}); err != nil {
		return err
	}
	s.out.check("all 6 addresses of the pool are in use")
	return nil
}

func refuseOneMore(ctx context.Context, s *stage) error {
	machine := s.worker("dkp-workers-zz4jq")
	denial, err := s.refused(ctx, machine)
	if err != nil {
		return err
	}
	s.out.say("%s is denied. The user reads:", machine.Name)
	s.out.quote(denial)
	const want = `admission webhook "vspheremachines.capv-static-ip.dev" denied the request: IPPool "dkp-cluster" in namespace "default" is exhausted: ` +
		`6 of 6 addresses in use; add addresses to the pool or delete a machine that holds one`
	if err := expect("the denial", denial, want); err != nil {
		return err
	}
	s.denial = denial

	// Cluster API tries again under another name.
	again, err := s.refused(ctx, s.worker("dkp-workers-b6l2s"))
	if err != nil {
		return err
	}
	if err := expect("the denial of another try", again, denial); err != nil {
		return err
	}
	s.out.check("the next try, under another name, reads the same")
	if err := s.awaitEvent(ctx, s.workers.Name); err != nil {
		return err
	}
	s.out.check("it is in an event as well: kubectl events --for machineset/%s", s.workers.Name)
	found, err := s.held(ctx)
	if err != nil {
		return err
	}
	err = s.plane.Client.Get(ctx, client.ObjectKeyFromObject(machine), &capvv1.VSphereMachine{})
	if err := errors.Join(
		expect("claims and addresses after the denials", found, amount{claims: 6, addresses: 6}),
		expect("the denied machine is not there", apierrors.IsNotFound(err), true),
	); err != nil {
		return err
	}
	s.out.check("no machine, no claim and no address was left behind")
	return nil
}

// heldFor is how long the demo watches that an address is kept.
const heldFor = 2 * time.Second

func deleteMachine(ctx context.Context, s *stage) error {
	machine := s.controlPlaneMachine("dkp-control-plane-4xk7p")
	key := client.ObjectKeyFromObject(machine)
	if err := s.plane.Client.Get(ctx, key, machine); err != nil {
		return err
	}
	// CAPV does this when it sees a new machine.
	if err := s.edit(ctx, machine, harness.WithFinalizer(harness.MachineFinalizer)); err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(harness.Addresses(machine)[0])
	if err != nil {
		return err
	}
	s.deleted, s.freed = machine, prefix.Addr()
	if err := s.plane.Client.Delete(ctx, machine); err != nil {
		return fmt.Errorf("deleting %s: %w", machine.Name, err)
	}
	s.out.say("%s, which holds %s, is deleted. CAPV's finalizer is still on it.", machine.Name, s.freed)
	err = harness.Consistently(ctx, heldFor, "the address is held", func(ctx context.Context) error {
		if err := s.plane.Client.Get(ctx, key, machine); err != nil {
			return err
		}
		held, err := s.isHeld(ctx, s.freed)
		return errors.Join(err,
			expect("finalizers of the machine", machine.Finalizers, []string{ipam.ReleaseFinalizer, harness.MachineFinalizer}),
			expect(fmt.Sprintf("%s has an address object and a claim that are not being deleted", s.freed), held, true))
	})
	if err != nil {
		return err
	}
	s.out.check("%s later the machine waits with finalizers %v", heldFor, machine.Finalizers)
	denial, err := s.refused(ctx, s.controlPlaneMachine("dkp-control-plane-kk5vn"))
	if err != nil {
		return err
	}
	if err := expect("the denial of a new machine", denial, s.denial); err != nil {
		return err
	}
	s.out.check("%s is held: a new machine is still denied, the pool is full", s.freed)
	return nil
}

func finishDeletion(ctx context.Context, s *stage) error {
	start := time.Now()
	if err := s.edit(ctx, s.deleted, withoutFinalizer(harness.MachineFinalizer)); err != nil {
		return err
	}
	s.out.say("CAPV takes its finalizer off %s.", s.deleted.Name)
	if err := harness.WaitGone(ctx, s.plane.Client, s.deleted, harness.Soon); err != nil {
		return err
	}
	gone := time.Since(start)
	err := harness.Eventually(ctx, harness.Soon, s.freed.String()+" to be free", func(ctx context.Context) error {
		found, err := s.held(ctx)
		return errors.Join(err, expect("claims and addresses in the pool", found, amount{claims: 5, addresses: 5}))
	})
	if err != nil {
		return err
	}
	held, err := s.isHeld(ctx, s.freed)
	if err := errors.Join(err, expect(s.freed.String()+" is still held", held, false)); err != nil {
		return err
	}
	delete(s.holders, s.freed)
	s.out.check("the machine was gone after %s, and %s free after %s", round(gone), s.freed, round(time.Since(start)))
	return nil
}

func makeReplacement(ctx context.Context, s *stage) error {
	s.out.tableHead()
	address, err := s.store(ctx, s.controlPlaneMachine("dkp-control-plane-r2d8c"), harness.ControlPlaneManager)
	if err != nil {
		return err
	}
	if err := expect("the address of the new machine", address, s.freed); err != nil {
		return err
	}
	s.out.check("%s, which was %s's, is in use again", address, s.deleted.Name)
	if err := harness.AwaitInvariants(ctx, s.plane.Client, harness.Soon, harness.InvariantOptions{}); err != nil {
		return err
	}
	s.out.check("no address is held twice, none is free that a machine uses, no claim is without a machine")
	return nil
}

func makeDualStack(ctx context.Context, s *stage) error {
	const text = harness.DefaultPool + "|dkp-spare, dkp-six"
	six := harness.Pool(namespace, harness.PoolNamed("dkp-six"), harness.PoolRange("2001:db8:56::10", "2001:db8:56::19"))
	for _, change := range []harness.Option{harness.WithPrefix(64), harness.WithGateway("2001:db8:56::1"), harness.WithNameservers()} {
		change(six)
	}
	for _, pool := range []client.Object{harness.Pool(namespace, harness.PoolNamed("dkp-spare"), harness.PoolRange("10.16.56.100", "10.16.56.101")), six} {
		if err := s.plane.Client.Create(ctx, pool); err != nil {
			return fmt.Errorf("creating %s: %w", pool.GetName(), err)
		}
	}
	s.out.say("Pools dkp-spare and dkp-six beside the full one, and a machine with annotation")
	s.out.say("%s0: %s", ipam.PoolsAnnotationPrefix, text)
	machine := harness.Clone(s.template, "dkp-workers-n5d2s", harness.WithOwner(s.workers), harness.WithAnnotation(ipam.PoolsAnnotationPrefix+"0", text))
	stored, took, err := s.create(ctx, machine, harness.MachineSetManager)
	if err != nil {
		return err
	}
	s.out.blank()
	device := stored.Spec.Network.Devices[0]
	s.out.say("%s, stored after %s, has %v with gateways %s and %s", stored.Name, round(took), device.IPAddrs, device.Gateway4, device.Gateway6)
	if err := errors.Join(
		expect("addresses of the machine", device.IPAddrs, []string{"10.16.56.100/24", "2001:db8:56::10/64"}),
		expect("IPv4 gateway of the machine", device.Gateway4, "10.16.56.1"),
		expect("IPv6 gateway of the machine", device.Gateway6, "2001:db8:56::1"),
	); err != nil {
		return err
	}
	s.out.check("an address of the second choice, and one of each family, chosen before anything was claimed")
	return harness.AwaitInvariants(ctx, s.plane.Client, harness.Soon, harness.InvariantOptions{})
}
