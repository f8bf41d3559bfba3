package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// A webhook after ours may change what it has injected.
func TestAddressThatWasChangedAfterItWasGivenIsTold(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		env := ownEnvironment(t, harness.Options{WithoutMetal3: f.Is(harness.OfInCluster)}, 1)
		if f.Is(harness.OfInCluster) {
			if _, err := env.StartInCluster(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s := newScene(t, env)
		s.pool(f, f.WithIPs(88, 89))
		given, other := f.IP(88), f.IP(89)
		machine := s.asks(f, "cp-0")
		s.create(machine)
		s.settled("cp-0")
		changed := s.metric("capv_static_ip_addresses_changed_total", nil)
		// No webhook may run after ours here, so ours is away for a moment.
		if err := env.RemoveWebhook(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.eventually("the address to be changed", func(context.Context) error {
			s.change(machine, func() { machine.Spec.Network.Devices[0].IPAddrs = []string{other + "/24"} })
			return s.has("cp-0", other)
		})
		if err := env.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}

		if note := s.told("cp-0", "AddressChanged"); !strings.Contains(note, given) {
			t.Errorf("event AddressChanged says %q, want it to name %s", note, given)
		}
		if got := s.metric("capv_static_ip_addresses_changed_total", nil); got != changed+1 {
			t.Errorf("%v changes are counted, want one more than the %v before", got, changed)
		}
		// Neither of the two is given to anybody.
		s.eventually("the webhook to be called again", func(ctx context.Context) error {
			return denialIn(env.Client.Create(ctx, s.copyOf("cp-0", "copy"), client.DryRunAll))
		})
		if err := denialIn(env.Client.Create(t.Context(), s.asks(f, "cp-1"))); err != nil {
			t.Errorf("another machine asks for an address: %v", err)
		}
		s.consistently("the address that it was given is held", func(context.Context) error {
			return errors.Join(s.isHeld("cp-0", given), s.isKept(given))
		})

		s.delete(machine)
		s.gone(machine)
		s.returned(given)
		s.eventually("the addresses that nobody uses any more to be given", func(ctx context.Context) error {
			return s.env.Client.Create(ctx, s.asks(f, "cp-1"))
		})
	})
}

// isKept returns an error if an address is being deleted.
func (s *scene) isKept(ip string) error {
	address, err := s.address(ip)
	if err == nil && !address.GetDeletionTimestamp().IsZero() {
		err = fmt.Errorf("%s is deleted at %v", address.GetName(), address.GetDeletionTimestamp())
	}
	return err
}

// has returns an error unless this is the machine's only address.
func (s *scene) has(name, ip string) error {
	if got := s.ip(name); got != ip {
		return errors.New("it has " + got)
	}
	return nil
}

// denialIn returns an error unless the one that it is given is a denial of ours.
func denialIn(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), denied) {
		return nil
	}
	return errors.Join(errors.New("it is not denied"), err)
}
