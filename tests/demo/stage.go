package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// mismatch is something that is not as the demo says.
type mismatch struct {
	what            string
	found, expected any
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("%s\n  expected: %v\n  found:    %v", m.what, m.expected, m.found)
}

func expect(what string, found, expected any) error {
	if reflect.DeepEqual(found, expected) {
		return nil
	}
	return &mismatch{what: what, found: found, expected: expected}
}

func (s *stage) controlPlaneMachine(name string) *capvv1.VSphereMachine {
	return harness.Clone(s.template, name, harness.WithOwner(s.controlPlane))
}

func (s *stage) worker(name string) *capvv1.VSphereMachine {
	return harness.Clone(s.template, name, harness.WithOwner(s.workers))
}

// store creates a machine that is to get an address, shows it in the table, and
// returns the address.
func (s *stage) store(ctx context.Context, machine *capvv1.VSphereMachine, manager string) (netip.Addr, error) {
	stored, took, err := s.create(ctx, machine, manager)
	if err != nil {
		return netip.Addr{}, err
	}
	device := stored.Spec.Network.Devices[0]
	s.out.tableRow(stored.Name, strings.Join(device.IPAddrs, ","), device.Gateway4,
		strings.Join(device.Nameservers, ", "), round(took).String())
	return s.checkInjected(stored)
}

// create creates a machine the way Cluster API does. It returns the first
// version of it that the API server stored, as a watch sees it, and the time
// from the request until then.
func (s *stage) create(ctx context.Context, machine *capvv1.VSphereMachine, manager string) (*capvv1.VSphereMachine, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, harness.Soon)
	defer cancel()
	watcher, err := s.plane.Client.Watch(ctx, &capvv1.VSphereMachineList{},
		client.InNamespace(namespace), client.MatchingFields{"metadata.name": machine.Name})
	if err != nil {
		return nil, 0, fmt.Errorf("watching %s: %w", machine.Name, err)
	}
	defer watcher.Stop()
	start := time.Now()
	if err := harness.Apply(ctx, s.plane.Client, machine, manager); err != nil {
		return nil, 0, fmt.Errorf("applying %s: %w", machine.Name, err)
	}
	for event := range watcher.ResultChan() {
		if stored, ok := event.Object.(*capvv1.VSphereMachine); ok && event.Type == watch.Added {
			return stored, time.Since(start), nil
		}
	}
	return nil, 0, fmt.Errorf("watching %s: no watch event of it in %s", machine.Name, harness.Soon)
}

// checkInjected looks whether a machine has all that it should have got, and
// an address that nobody else has.
func (s *stage) checkInjected(machine *capvv1.VSphereMachine) (netip.Addr, error) {
	device := machine.Spec.Network.Devices[0]
	if err := expect("number of addresses of "+machine.Name, len(device.IPAddrs), 1); err != nil {
		return netip.Addr{}, err
	}
	prefix, err := netip.ParsePrefix(device.IPAddrs[0])
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reading the address of %s: %w", machine.Name, err)
	}
	address := prefix.Addr()
	first, last := netip.MustParseAddr("10.16.56.88"), netip.MustParseAddr("10.16.56.93")
	inPool := !address.Less(first) && !last.Less(address)
	_, annotated := machine.Annotations[ipam.BindingsAnnotation]
	err = errors.Join(
		expect(address.String()+" is of the pool", inPool, true),
		expect("prefix length of "+machine.Name, prefix.Bits(), 24),
		expect("holder of "+address.String()+" before "+machine.Name, s.holders[address], ""),
		expect("gateway of "+machine.Name, device.Gateway4, "10.16.56.1"),
		expect("name servers of "+machine.Name, device.Nameservers, []string{"10.16.56.10", "10.16.56.11"}),
		expect("finalizers of "+machine.Name, machine.Finalizers, []string{ipam.ReleaseFinalizer}),
		expect(machine.Name+" says what it holds", annotated, true),
	)
	s.holders[address] = machine.Name
	return address, err
}

// refused tries to create a machine, and returns the text of the denial.
func (s *stage) refused(ctx context.Context, machine *capvv1.VSphereMachine) (string, error) {
	err := harness.Apply(ctx, s.plane.Client, machine, harness.MachineSetManager)
	if err == nil {
		return "", expect("creating "+machine.Name, fmt.Sprintf("stored with addresses %v", harness.Addresses(machine)), "denied")
	}
	if !apierrors.IsForbidden(err) {
		return "", expect("creating "+machine.Name, err.Error(), "denied, as forbidden")
	}
	return err.Error(), nil
}

// awaitEvent waits for the event that tells the owner of a denied machine.
func (s *stage) awaitEvent(ctx context.Context, owner string) error {
	return harness.Eventually(ctx, harness.Soon, "the event of the denial", func(ctx context.Context) error {
		list := &eventsv1.EventList{}
		if err := s.plane.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, event := range list.Items {
			if event.Regarding.Name == owner && strings.HasSuffix(s.denial, event.Note) {
				return nil
			}
		}
		return fmt.Errorf("none of %d events regards %s", len(list.Items), owner)
	})
}

// calls counts what the API server has asked the webhook so far.
func (s *stage) calls(ctx context.Context) (float64, error) {
	sum := 0.0
	for _, manager := range s.managers {
		n, err := manager.Metric(ctx, "capv_static_ip_admissions_total", nil)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// amount is how much of the pool is in use.
type amount struct{ claims, addresses int }

func (a amount) String() string { return fmt.Sprintf("%d claims, %d addresses", a.claims, a.addresses) }

func (s *stage) held(ctx context.Context) (amount, error) {
	claims, addresses, err := s.list(ctx)
	return amount{len(claims), len(addresses)}, err
}

// isHeld tells whether an address and the claim that it answers are there, and
// neither is being deleted.
func (s *stage) isHeld(ctx context.Context, ip netip.Addr) (bool, error) {
	claims, addresses, err := s.list(ctx)
	if err != nil {
		return false, err
	}
	for _, address := range addresses {
		if string(address.Spec.Address) != ip.String() {
			continue
		}
		claimed := slices.ContainsFunc(claims, func(claim ipamv1.IPClaim) bool {
			return claim.Name == address.Spec.Claim.Name && claim.DeletionTimestamp.IsZero()
		})
		return claimed && address.DeletionTimestamp.IsZero(), nil
	}
	return false, nil
}

func (s *stage) list(ctx context.Context) ([]ipamv1.IPClaim, []ipamv1.IPAddress, error) {
	claims, addresses := &ipamv1.IPClaimList{}, &ipamv1.IPAddressList{}
	for _, list := range []client.ObjectList{claims, addresses} {
		if err := s.plane.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, nil, fmt.Errorf("listing what is held: %w", err)
		}
	}
	return claims.Items, addresses.Items, nil
}

// edit patches the metadata of a machine.
func (s *stage) edit(ctx context.Context, machine *capvv1.VSphereMachine, change harness.Option) error {
	before := machine.DeepCopy()
	change(machine)
	if err := s.plane.Client.Patch(ctx, machine, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("patching %s: %w", machine.Name, err)
	}
	return nil
}

func withoutFinalizer(name string) harness.Option {
	return func(object client.Object) {
		object.SetFinalizers(slices.DeleteFunc(object.GetFinalizers(), func(f string) bool { return f == name }))
	}
}
