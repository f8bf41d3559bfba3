package webhook

import (
	"context"
	"slices"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/machine"
)

// told is a demand that is known beforehand.
type told struct {
	asks []ipam.Ask
	err  error
}

func (d told) Asks(context.Context, *machine.Machine) ([]ipam.Ask, []string, error) {
	return d.asks, nil, d.err
}

func (told) IsPaused(context.Context, *machine.Machine) (bool, error) { return false, nil }

func dryRun(req admission.Request) admission.Request {
	req.DryRun = new(true)
	return req
}

func TestMachineWhoseFailureDomainDecidesIsAdmittedAsItIs(t *testing.T) {
	const withDHCP = `{"metadata":{"name":"cp"},"spec":{"network":{"devices":[{"networkName":"a","dhcp4":true}]}}}`
	one := []ipam.Ask{{Choices: []ipam.Choice{{Pool: metal3.PoolNamed("p")}}}}
	for name, test := range map[string]struct {
		demand    told
		allocator brokenAllocator
		req       admission.Request
	}{
		"about what is asked for":           {demand: told{err: ipam.ErrUndecided}, req: createOf(wanting)},
		"about it, in a dry run":            {demand: told{err: ipam.ErrUndecided}, req: dryRun(createOf(wanting))},
		"about the pool":                    {demand: told{asks: one}, allocator: brokenAllocator{err: ipam.ErrUndecided}, req: createOf(wanting)},
		"about the pool, in a dry run":      {demand: told{asks: one}, allocator: brokenAllocator{err: ipam.ErrUndecided}, req: dryRun(createOf(wanting))},
		"by taking DHCP away from a device": {demand: told{asks: one}, req: createOf(withDHCP)},
	} {
		t.Run(name, func(t *testing.T) {
			h := handler(&test.allocator)
			h.Demand = test.demand
			response := h.Handle(t.Context(), test.req)
			if !response.Allowed || len(response.Patches) > 0 || !slices.Equal(response.Warnings, []string{deferred}) {
				t.Errorf("got %+v", response)
			}
		})
	}
}

func TestWhatWasClaimedBeforeAFailureDomainDecidesIsTakenBack(t *testing.T) {
	a := &brokenAllocator{err: ipam.ErrUndecided}
	h := handler(a)
	h.Demand = told{asks: []ipam.Ask{{Choices: []ipam.Choice{{Pool: metal3.PoolNamed("p")}}}}}
	h.Handle(t.Context(), createOf(wanting))
	h.Wait()
	if a.takenBack != 1 {
		t.Errorf("taken back %d times, want once", a.takenBack)
	}
}

func TestMachineWithSomeOfItsAddressesIsNotDeferred(t *testing.T) {
	h := handler(&brokenAllocator{})
	h.Demand = told{err: ipam.ErrUndecided}
	req := createOf(wanting)
	m, err := machine.Decode(req.Object.Raw)
	if err != nil {
		t.Fatal(err)
	}
	m.Held = []ipam.Binding{{Pool: metal3.PoolNamed("p")}}
	wantRefusal(t, h.serve(t.Context(), req, m).err, ipam.DevicePinned, "have that webhook run before this one")
}
