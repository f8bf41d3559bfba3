package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func TestVirtualMachinesGetWhatTheirPoolSays(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, provider harness.Fixture) {
		s := newScene(t, shared)
		template := s.template("workers", provider.Ask("pool"))
		workers := s.workers(template, "md-0", 3)
		waiters := s.watchWaiting()

		s.create(s.pool(provider, "pool", 88, 93), template, workers)
		nodes := s.nodes(workers)

		var held []string
		for _, node := range nodes {
			s.expectNetwork(node)
			if err := s.expectBound(node.Machine, provider); err != nil {
				t.Error(err)
			}
			held = append(held, harness.Addresses(node.Machine)...)
		}
		slices.Sort(held)
		if want := s.addresses(88, 90); !slices.Equal(held, want) {
			t.Errorf("the machines have %v, want %v", held, want)
		}
		if seen, err := waiters.list(); err != nil || len(seen) > 0 {
			t.Errorf("waiting for an address were %v; error %v; want none", seen, err)
		}
	})
}

// Without this, nothing would show that a machine that waits is seen.
func TestVirtualMachineWithoutAPoolIsSeenToWait(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	template := s.template("workers")
	waiters := s.watchWaiting()

	s.create(template, s.workers(template, "md-0", 1))

	s.eventually(provisioned, "a VSphereVM that waits for an address", func(context.Context) error {
		seen, err := waiters.list()
		if len(seen) == 0 {
			return errors.Join(errors.New("there is none"), err)
		}
		return err
	})
}

// metadata is what a virtual machine is told of its network.
type metadata struct {
	Network struct {
		Version   int `json:"version"`
		Ethernets map[string]struct {
			Match       map[string]string `json:"match"`
			SetName     string            `json:"set-name"`
			WakeOnLAN   bool              `json:"wakeonlan"`
			DHCP4       bool              `json:"dhcp4"`
			DHCP6       bool              `json:"dhcp6"`
			AcceptRA    bool              `json:"accept-ra"`
			Addresses   []string          `json:"addresses"`
			Gateway4    string            `json:"gateway4"`
			Nameservers struct {
				Addresses []string `json:"addresses"`
				Search    []string `json:"search"`
			} `json:"nameservers"`
		} `json:"ethernets"`
	} `json:"network"`

	InstanceID    string          `json:"instance-id"`
	LocalHostname string          `json:"local-hostname"`
	WaitOnNetwork map[string]bool `json:"wait-on-network"`
}

// expectNetwork checks that a virtual machine is told what the pools of both
// providers say, and nothing else.
func (s *scene) expectNetwork(node stack.Node) {
	s.Helper()
	var got metadata
	if err := yaml.UnmarshalStrict([]byte(node.VM.Metadata), &got); err != nil {
		s.Fatalf("the metadata of %s is not as CAPV makes it: %v\n%s", node.Machine.Name, err, node.VM.Metadata)
	}
	card, ok := got.Network.Ethernets["id0"]
	switch {
	case !ok || len(got.Network.Ethernets) != 1:
		s.Errorf("%s has cards %v, want id0", node.Machine.Name, got.Network.Ethernets)
	case card.DHCP4 || card.DHCP6:
		s.Errorf("%s is told to ask DHCP", node.Machine.Name)
	case !slices.Equal(card.Addresses, harness.Addresses(node.Machine)) || len(card.Addresses) != 1:
		s.Errorf("%s is told addresses %v, and its machine has %v", node.Machine.Name, card.Addresses, harness.Addresses(node.Machine))
	case card.Gateway4 != s.address(1):
		s.Errorf("%s is told gateway %q, want %s", node.Machine.Name, card.Gateway4, s.address(1))
	case !slices.Equal(card.Nameservers.Addresses, []string{s.address(2), s.address(3)}):
		s.Errorf("%s is told name servers %v, want those of the pool", node.Machine.Name, card.Nameservers.Addresses)
	case !slices.Equal(card.Nameservers.Search, []string{"dkp.example.com", "example.com"}):
		s.Errorf("%s is told search domains %v, want those of the pool", node.Machine.Name, card.Nameservers.Search)
	}
}

// expectBound checks that the machine, its claim and its address object agree.
func (s *scene) expectBound(machine *capvv1.VSphereMachine, provider harness.Fixture) error {
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return fmt.Errorf("machine %s: %w", machine.Name, err)
	}
	if bindings.Machine != machine.Name || len(bindings.Bindings) != 1 {
		return fmt.Errorf("machine %s has bindings %+v, want one of its own", machine.Name, bindings)
	}
	binding := bindings.Bindings[0]
	if held := harness.Addresses(machine); !slices.Equal(held, []string{binding.Address.String()}) {
		return fmt.Errorf("machine %s has %v, and its binding %s", machine.Name, held, binding.Address)
	}
	address, err := s.boundTo(provider, binding.Claim)
	if err != nil {
		return err
	}
	if address != binding.Address.Addr().String() {
		return fmt.Errorf("machine %s has %s, and its claim %s", machine.Name, binding.Address, address)
	}
	return nil
}
