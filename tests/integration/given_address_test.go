package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// given asks for this very address of the default pool of metal3, or for what comes behind.
func given(ip, behind string) string { return "IPPool/" + harness.DefaultPool + "=" + ip + behind }

func TestRequestedAddressIsGiven(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	machine := s.expressing("cp-0", given("10.16.56.91", ""))
	s.create(machine)

	if got := s.settled("cp-0"); got != "10.16.56.91" {
		t.Errorf("the machine has %s, want what it asked for", got)
	}
	s.delete(machine)
	s.gone(machine)
	s.returned("10.16.56.91")
}

func TestRequestedAddressInUseIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.create(s.expressing("holder", given("10.16.56.91", "")))
	s.settled("holder")

	s.denyMachines(`10.16.56.91 of IPPool "dkp-cluster" in namespace "NAMESPACE", which `+expression+` wants, is in use or reserved for another claim: `+
		`free it, or ask for another`, withPoolOf("0", given("10.16.56.91", "")))
	s.expectClaims(1)
	s.create(s.expressing("cp-0", given("10.16.56.91", "|"+harness.DefaultPool)))

	if got := s.ip("cp-0"); got != "10.16.56.88" {
		t.Errorf("the machine that only wished for the address has %s, want any other", got)
	}
}

func TestRequestedAddressOutsideThePoolIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))

	s.denyMachines(`10.16.56.7, which `+expression+` wants, is not in IPPool "dkp-cluster" in namespace "NAMESPACE": correct one of them`,
		withPoolOf("0", given("10.16.56.7", "")))

	s.expectNoClaims()
}

func TestRequestedAddressReservedForAnotherIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolWith(func(pool *ipamv1.IPPool) {
		pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"somebody-0": "10.16.56.91", "cp-0-0": "10.16.56.90"}
	})))

	for name, ip := range map[string]string{"cp-1": "10.16.56.91", "cp-0": "10.16.56.91"} {
		s.denyMachine(fmt.Sprintf(`%s of IPPool "dkp-cluster" in namespace "NAMESPACE", which %s wants, is in use or reserved for another claim: `+
			`free it, or ask for another`, ip, expression), name, withPoolOf("0", given(ip, "")))
	}
	s.expectNoClaims()
}

func TestRequestedAddressOfAnInClusterPoolIsDenied(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.inClusterPool()

	s.denyMachines(inClusterName+` cannot be asked for 10.16.57.90, which `+expression+` wants: make a pool of that address alone, or use an IPPool`,
		withPoolOf("0", inClusterRef+"=10.16.57.90"))

	s.expectNoClaims()
}

func TestPreallocatedAddressByClaimName(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolWith(func(pool *ipamv1.IPPool) {
		pool.Spec.PreAllocations = map[string]ipamv1.IPAddressStr{"cp-0-0": "10.16.56.92", "cp-0-0.1": "10.16.56.93"}
	})))

	s.create(s.expressing("cp-0", harness.DefaultPool+","+harness.DefaultPool))
	s.create(s.expressing("cp-1", harness.DefaultPool))

	if got := s.addressesOf("cp-0"); got[0] != "10.16.56.92" || got[1] != "10.16.56.93" {
		t.Errorf("the machine has %v, want what is reserved for its claims", got)
	}
	if got := s.ip("cp-1"); got != "10.16.56.88" {
		t.Errorf("another machine has %s, want the first that is reserved for nobody", got)
	}
}

// A claim that was made by hand decides for the pool, and for the address.
func TestRequestedAddressOfAnOfferedClaimIsKept(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Pool(s.ns, harness.PoolNamed("other"), harness.PoolRange("10.16.56.20", "10.16.56.29")))
	claim := harness.Claim(s.ns, "cp-0-0", "other")
	harness.WithAnnotation("ipAddress", "10.16.56.25")(claim)
	harness.WithAnnotation("capv-static-ip.dev/for", "cp-0")(claim)
	s.create(claim)
	s.bind(claim)

	s.create(s.expressing("cp-0", harness.DefaultPool+"|other"))

	if got := s.settled("cp-0"); got != "10.16.56.25" {
		t.Errorf("the machine has %s, want that of the claim", got)
	}
}

// The address that any of them would do for goes to the one that wants just it.
func TestRequestedAddressIsNotTakenByAnotherDeviceOfTheMachine(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.89")))

	machine := s.expressing("cp-0", harness.DefaultPool+","+given("10.16.56.88", ""))
	s.create(machine)

	if got := s.addressesOf("cp-0"); len(got) != 2 || got[0] != "10.16.56.89" || got[1] != "10.16.56.88" {
		t.Errorf("the machine has %v, want the address that it asked for behind the other", got)
	}
}

// The pool has others, which do not help.
func TestOwnerThatWantsAnAddressInUseTriesAgainWhenItComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	holder := s.expressing("holder", given("10.16.56.91", ""))
	s.create(holder)
	s.settled("holder")
	owner := s.machineSet("owner")
	machine := func(name string) client.Object {
		return s.expressing(name, given("10.16.56.91", ""), harness.WithOwner(owner))
	}
	tried := s.try(owner, machine)
	if err := <-tried.tries; err == nil || !strings.Contains(err.Error(), "is in use or reserved for another claim") {
		t.Fatalf("got %v, want a denial", err)
	}

	s.delete(holder)

	select {
	case <-tried.stored:
	case <-time.After(patience):
		t.Error("no machine is made with the address that came back")
	}
}
