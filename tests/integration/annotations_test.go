package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// kept is a finalizer of the test: what we have removed ours from stays.
const kept = "example.org/hold"

// The caches do not hold the annotations of others, from which patches are made.
func TestAnnotationsOfOthersSurvive(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		s.pool(f)
		s.create(s.asks(f, "cp-0", harness.WithFinalizer(harness.MachineFinalizer)))
		machine := s.machine("cp-0")
		claim, err := s.claim("cp-0")
		address, addressErr := s.address(s.ip("cp-0"))
		if err := errors.Join(err, addressErr); err != nil {
			t.Fatal(err)
		}
		others := map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 10<<10),
			"example.org/a": "a",
		}
		all := []client.Object{machine, claim, address}
		for _, object := range all {
			s.change(object, func() {
				for name, value := range others {
					harness.WithAnnotation(name, value)(object)
				}
				harness.WithFinalizer(kept)(object)
			})
		}
		survive := func(when string) {
			t.Helper()
			for _, object := range all {
				if err := s.env.Client.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
					t.Fatal(err)
				}
				for name, value := range others {
					if object.GetAnnotations()[name] != value {
						t.Errorf("%s, annotation %s of %T %s is lost", when, name, object, object.GetName())
					}
				}
			}
		}

		s.eventually("the claim to be adopted", func(ctx context.Context) error {
			err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(claim), claim)
			if err == nil && capi.OwnerMachine(claim).UID != machine.GetUID() {
				err = errors.New("it has no owner")
			}
			return err
		})
		survive("adopted")
		s.change(machine, func() {
			machine.SetFinalizers([]string{harness.MachineFinalizer, kept})
			annotations := machine.GetAnnotations()
			delete(annotations, ipam.BindingsAnnotation)
			machine.SetAnnotations(annotations)
		})
		s.eventually("the machine's marks to come back", func(ctx context.Context) error {
			err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(machine), machine)
			if err == nil && machine.GetAnnotations()[ipam.BindingsAnnotation] == "" {
				err = errors.New("there are none")
			}
			return err
		})
		survive("restored")

		// What is on the address is all that we take off it, so the last of ours goes.
		s.delete(machine)
		s.change(machine, func() { machine.SetFinalizers([]string{ipam.ReleaseFinalizer}) })
		s.gone(machine)
		all = []client.Object{claim, address}
		s.eventually("the address to be unprotected", func(ctx context.Context) error {
			err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address)
			if err == nil && slices.Contains(address.GetFinalizers(), ipam.InUseFinalizer) {
				err = fmt.Errorf("it has the finalizers %v", address.GetFinalizers())
			}
			return err
		})
		survive("released")
		for _, object := range all {
			s.dropFinalizer(object, kept)
		}
	})
}
