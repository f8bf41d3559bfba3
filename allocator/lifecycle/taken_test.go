package lifecycle

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// taken is an address that was taken for the machine so long ago, and has no claim yet.
func taken(ago time.Duration, options ...option) holding {
	return bound(append([]option{withoutClaim, made(ago), func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		delete(a.Annotations, ipam.MachineUIDAnnotation)
		a.Annotations[ipam.RequestedByAnnotation] = ipam.RequestedBy(ipam.Owner{UID: "set"})
		ipam.Use(a, ipam.Stamp{Time: now.Add(-ago), Request: "request"})
	}}, options...)...)
}

func withTwin(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) { h.hasTwin = true }

// retaken is what another request does that uses the address.
func retaken(ago time.Duration) option {
	return func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		ipam.Use(a, ipam.Stamp{Time: now.Add(-ago), Request: "other again"})
	}
}

func TestNextStepForAnAddressThatWasTaken(t *testing.T) {
	notDone, moving := dying(), living()
	notDone.done = false
	moving.moving = true
	tests := map[string]struct {
		machine machineState
		holding holding
		want    step
		wait    time.Duration
	}{
		"its machine is stored":                              {living(), taken(0), claimTaken, failedClaimAge},
		"and paused":                                         {living(), taken(0, paused), idle, 0},
		"and has it on no device":                            {living(), taken(0, offDevice), idle, 0},
		"and another one has it on a device, too":            {living(), taken(0, shared), idle, 0},
		"and another address is there for the claim":         {living(), taken(0, withTwin), idle, 0},
		"and others wait for the provider":                   {living(), taken(0, busy), idle, busyCheck},
		"and they do for long":                               {old(), taken(0, busy), claimTaken, failedClaimAge},
		"its machine was given another one":                  {living(), taken(grace, withoutAnnotation), giveBack, 0},
		"its machine was given another one just now":         {living(), taken(0, withoutAnnotation), idle, grace},
		"its machine was given another one, and it is used":  {living(), taken(grace, withoutAnnotation, onDevice), idle, vmCheck},
		"its machine is moved away":                          {moving, taken(0), markMoved, 0},
		"its machine goes before it has a claim":             {dying(), taken(0), giveBack, 0},
		"its machine goes, CAPV still works on it":           {notDone, taken(0), idle, 0},
		"its machine goes, and has a VM":                     {dying(), taken(0, withVM), idle, 0},
		"its machine goes, and its claim has come meanwhile": {dying(), taken(0, madeFor()), idle, 0},
		"its machine is not stored yet":                      {absent(), taken(0), idle, storingPatience},
		"its machine is not stored for long":                 {absent(), taken(storingPatience), note, noteInterval},
		"its machine never came":                             {absent(), taken(grace), giveBack, 0},
		"its machine never came, but a VM is there":          {absent(), taken(grace, withVM), idle, vmCheck},
		"its machine never came, and it was used again":      {absent(), taken(grace, retaken(storingPatience)), note, noteInterval},
		"its machine never came, this leader has seen it":    {absent(), taken(time.Hour, seenBefore(grace)), giveBack, 0},
		"its machine never came, this leader is new":         {absent(), taken(time.Hour, seenBefore(storingPatience)), note, noteInterval},
		"its machine came and went, its claim is there":      {absent(), taken(grace, madeFor()), idle, behindCheck},
		"its machine was moved away":                         {absent(), taken(grace, movedAway), unprotect, 0},
		"nobody came, and the Cluster is paused":             {absent(), taken(grace, paused), idle, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, wait := decide(test.machine, test.holding, now, grace); got != test.want || wait != test.wait {
				t.Errorf("got %q after %s, want %q after %s", got, wait, test.want, test.wait)
			}
		})
	}
}

// A provider that goes by names would give the claim that one.
func TestClaimIsNotRecreatedWhileAnAddressThatWasTakenForItIsLeft(t *testing.T) {
	if got, _ := decide(living(), bound(withoutClaim, withoutAddress, withTwin), now, grace); got != idle {
		t.Errorf("got %q, want %q", got, idle)
	}
}

func TestWhichAddressesAreThereForOneClaim(t *testing.T) {
	ofClaim := func(claim string) option {
		return func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Claim.Name = claim }
	}
	annotated := func(h *holding, _ *ipamv1.IPClaim, _ *ipamv1.IPAddress) {
		h.annotated = &ipam.Binding{Claim: "cp-0-0", Pool: metal3.PoolNamed("")}
	}
	for name, test := range map[string]struct {
		one, other holding
		want       bool
	}{
		"of one claim":                          {taken(0, ofClaim("cp-0-0")), taken(0, ofClaim("cp-0-0"), withoutAnnotation), true},
		"of two claims":                         {taken(0, ofClaim("cp-0-0")), taken(0, ofClaim("cp-0-1")), false},
		"of one claim, the one is lost":         {bound(withoutClaim, annotated, withoutAddress), taken(0, ofClaim("cp-0-0"), withoutAnnotation), true},
		"of one claim, and the other not taken": {bound(withoutClaim, annotated, withoutAddress), spare(0, ofClaim("cp-0-0")), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := &state{holdings: []*holding{&test.one, &test.other}}
			if got := s.hasTwin(&test.one); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
