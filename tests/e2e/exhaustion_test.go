package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

const (
	// atOnce is how soon a machine comes when there is an address for it, unless
	// all is so busy that one without any obstacle takes longer, see usual.
	atOnce = 5 * time.Second
	// grownDenials are so many that CAPI's next try of its own is far away: it
	// waits twice as long each time.
	grownDenials = 6
	// quiet is how long CAPI has not tried by then.
	quiet = 2 * atOnce
	// backOff is how long all that takes.
	backOff = 3 * time.Minute
)

func TestMachineRefusedForWantOfAnAddressComesWhenThePoolGrows(t *testing.T) {
	harness.ForOneProvider(t, harness.OfInCluster, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		pool := s.pool(provider, "pool", 88, 90)
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 4)

		s.create(pool, template, workers)
		usual := s.usual(workers)

		s.expectTold(workers, provider, "3 of 3 addresses in use")
		told := s.condition(workers)
		s.awaitBackOff()
		if got := s.condition(workers); !equality.Semantic.DeepEqual(got, told) {
			t.Errorf("after the tries of CAPI the condition is %+v, was %+v", got, told)
		}

		freed := time.Now()
		patchFields(s, pool, harness.WithRange(s.address(88), s.address(91)))
		s.expectMachine(workers, 4, freed, usual)
		s.nodes(workers)
		s.expectNotWaiting(workers)
	})
}

func TestMachineRefusedForWantOfAnAddressComesWhenAnotherMachineGoes(t *testing.T) {
	harness.ForOneProvider(t, harness.OfMetal3, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", provider.Ask("pool"))
		others := s.workers(template, "md-1", 1)
		workers := s.workers(template, "md-0", 3)
		s.create(s.pool(provider, "pool", 88, 90), template, others)
		other := s.nodes(others)[0]

		s.create(workers)
		usual := s.usual(workers)

		s.expectTold(workers, provider, "3 of 3 addresses in use")
		told := s.condition(workers)
		s.awaitBackOff()
		if got := s.condition(workers); !equality.Semantic.DeepEqual(got, told) {
			t.Errorf("after the tries of CAPI the condition is %+v, was %+v", got, told)
		}

		s.scale(others, 0)
		s.gone(other.Machine, provisioned)
		s.expectMachine(workers, 3, time.Now(), usual)
		s.nodes(workers)
		s.expectNotWaiting(workers)
		s.expectReuse(1)
		events, err := s.events(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.logHandover(events, other.VM.ID)
	})
}

// expectTold checks that who looks at the MachineSet finds out what is missing.
func (s *scene) expectTold(workers *clusterv1.MachineDeployment, provider harness.Fixture, cause string) {
	s.Helper()
	want := fmt.Sprintf("%s %q in namespace %q is exhausted: %s; add addresses to the pool or delete a machine that holds one",
		provider.Reference("pool").Kind, provider.Reference("pool").Name, s.ns, cause)
	s.eventually(provisioned, "the MachineSet of "+workers.Name+" to be told", func(ctx context.Context) error {
		set, err := s.machineSet(ctx, workers)
		if err != nil {
			return err
		}
		if got := set.Annotations[ipam.RefusedByAnnotation]; got != provider.Reference("pool").String() {
			return fmt.Errorf("its annotation %s is %q", ipam.RefusedByAnnotation, got)
		}
		events, err := s.eventsAbout(ctx, "MachineSet", ipam.PoolExhausted)
		if err != nil {
			return err
		}
		ofDeployment, err := s.eventsAbout(ctx, "MachineDeployment", ipam.PoolExhausted)
		if err != nil {
			return err
		}
		events = append(events, ofDeployment...)
		for _, uid := range []types.UID{set.UID, workers.UID} {
			if !slices.ContainsFunc(events, func(event eventsv1.Event) bool {
				return event.Regarding.UID == uid && event.Type == corev1.EventTypeWarning && event.Note == want
			}) {
				return fmt.Errorf("there is no event %q about %s; there are %+v", want, uid, events)
			}
		}
		if got := meta.FindStatusCondition(set.Status.Conditions, ipam.AddressesAvailableCondition); got == nil ||
			got.Status != metav1.ConditionFalse || got.Reason != string(ipam.PoolExhausted) || got.Message != want {
			return fmt.Errorf("its condition is %+v", got)
		}
		return nil
	})
	s.step("the MachineSet, and its MachineDeployment, are told: %s", want)
}

// condition is what the MachineSet says of its addresses, nil if it says nothing.
func (s *scene) condition(workers *clusterv1.MachineDeployment) *metav1.Condition {
	s.Helper()
	set, err := s.machineSet(s.Context(), workers)
	if err != nil {
		s.Fatal(err)
	}
	return meta.FindStatusCondition(set.Status.Conditions, ipam.AddressesAvailableCondition)
}

// awaitBackOff waits until CAPI has been refused so often that it is slow to try
// again: a machine that comes then comes because CAPI was made to try. An event that
// repeats is written once a minute, so that the tries are counted in the log.
func (s *scene) awaitBackOff() {
	s.Helper()
	tries, last := 0, time.Now()
	s.eventually(backOff, "CAPI to be slow to try again", func(context.Context) error {
		if denied := strings.Count(s.stack.Plane.LogsAbout(s.ns), `"Denied a request"`); denied != tries {
			tries, last = denied, time.Now()
		}
		if since := time.Since(last); tries < grownDenials || since < quiet {
			return fmt.Errorf("it was refused %d times, the last time %s ago", tries, since)
		}
		return nil
	})
	s.step("CAPI was refused %d times, and has not tried for %s", tries, quiet)
}

// eventsAbout lists events by what they are about and their reason.
func (s *scene) eventsAbout(ctx context.Context, kind string, reason ipam.Reason) ([]eventsv1.Event, error) {
	list := &eventsv1.EventList{}
	err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns))
	return slices.DeleteFunc(list.Items, func(event eventsv1.Event) bool {
		return event.Regarding.Kind != kind || event.Reason != string(reason)
	}), err
}

// machineSet is the only MachineSet of a MachineDeployment.
func (s *scene) machineSet(ctx context.Context, workers *clusterv1.MachineDeployment) (*clusterv1.MachineSet, error) {
	list := &clusterv1.MachineSetList{}
	err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns),
		client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
	if err != nil || len(list.Items) != 1 {
		return nil, errors.Join(fmt.Errorf("there are %d MachineSets", len(list.Items)), err)
	}
	return &list.Items[0], nil
}

// usual is how long the first machine of a MachineDeployment takes that has just
// been created: what is quick, on a machine as busy as this one.
func (s *scene) usual(workers *clusterv1.MachineDeployment) time.Duration {
	s.Helper()
	began := time.Now()
	s.awaitMachines(workers, 1)
	return time.Since(began)
}

// expectMachine checks that the last machine of a MachineDeployment is there at
// once after an address became free.
func (s *scene) expectMachine(workers *clusterv1.MachineDeployment, last int, freed time.Time, usual time.Duration) {
	s.Helper()
	s.awaitMachines(workers, last)
	took := time.Since(freed).Round(time.Millisecond)
	if limit := max(atOnce, usual); took > limit {
		s.Errorf("the machine came %s after the address was free, want at most %s", took, limit)
	}
	s.step("the machine came %s after the address was free; the first one had taken %s", took, usual.Round(time.Millisecond))
}

// awaitMachines waits until there are so many VSphereMachines.
func (s *scene) awaitMachines(workers *clusterv1.MachineDeployment, want int) {
	s.Helper()
	s.eventually(provisioned, fmt.Sprintf("machine %d of %s", want, workers.Name), func(ctx context.Context) error {
		list := &capvv1.VSphereMachineList{}
		err := s.stack.Plane.Client.List(ctx, list, client.InNamespace(s.ns),
			client.MatchingLabels{clusterv1.MachineDeploymentNameLabel: workers.Name})
		if len(list.Items) < want {
			err = errors.Join(fmt.Errorf("there are %d", len(list.Items)), err)
		}
		return err
	})
}

// expectNotWaiting checks that the MachineSet does not look as if it waited.
func (s *scene) expectNotWaiting(workers *clusterv1.MachineDeployment) {
	s.Helper()
	s.eventually(harness.Soon, "the MachineSet of "+workers.Name+" not to wait any more", func(ctx context.Context) error {
		set, err := s.machineSet(ctx, workers)
		if err != nil {
			return err
		}
		if got, ok := set.Annotations[ipam.RefusedByAnnotation]; ok {
			return fmt.Errorf("its annotation %s is %q", ipam.RefusedByAnnotation, got)
		}
		return nil
	})
	s.eventually(2*harness.Soon, "the MachineSet of "+workers.Name+" to say nothing any more", func(context.Context) error {
		if got := s.condition(workers); got != nil {
			return fmt.Errorf("it says %+v", got)
		}
		return nil
	})
}

// logHandover logs how long the address of a virtual machine lay idle.
func (s *scene) logHandover(events []stack.VMEvent, id string) {
	s.Helper()
	var destroyed *stack.VMEvent
	for i, event := range events {
		switch {
		case event.ID == id && event.Kind == stack.VMDestroyed:
			destroyed = &events[i]
		case destroyed != nil && event.Kind == stack.VMConfigured && slices.Equal(event.Addresses, destroyed.Addresses):
			s.step("%v was in another virtual machine %s after the first was destroyed",
				event.Addresses, event.Time.Sub(destroyed.Time).Round(time.Millisecond))
			return
		}
	}
}

// patchFields merges fields into an object of any kind.
func patchFields(s *scene, object client.Object, change func(client.Object)) {
	s.Helper()
	s.get(object)
	patch(s, object, change)
}
