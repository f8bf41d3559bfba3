package allocator

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// choosingFrom is a request of cp-0 for these addresses of its first device, each with
// the metal3 pools that are its choices.
func choosingFrom(addresses ...string) Request {
	req := wanting()
	for nth, text := range addresses {
		ask := ipam.Ask{Nth: nth, AskedBy: "annotation x of y"}
		for _, choice := range strings.Split(text, "|") {
			if group, is := strings.CutPrefix(choice, "@"); is {
				ask.Choices = append(ask.Choices, ipam.Choice{Labels: ipam.PoolLabels{Group: group}})
				continue
			}
			pool, given, _ := strings.Cut(choice, "=")
			ip, _ := netip.ParseAddr(given)
			ask.Choices = append(ask.Choices, ipam.Choice{Pool: metal3.PoolNamed(pool), IP: ip})
		}
		req.Asks = append(req.Asks, ask)
	}
	return req
}

// inGroup puts a pool into a group.
func inGroup(pool *ipamv1.IPPool, group string) *ipamv1.IPPool {
	pool.Labels = map[string]string{ipam.PoolGroupLabel: group}
	return pool
}

// stating has a pool say for which networks it is.
func stating(pool *ipamv1.IPPool, networks string) *ipamv1.IPPool {
	return annotated(pool, ipam.NetworksAnnotation, networks)
}

func annotated(pool *ipamv1.IPPool, key, value string) *ipamv1.IPPool {
	pool.Annotations = map[string]string{key: value}
	return pool
}

func terminatingPool(name string) *ipamv1.IPPool {
	pool := poolOf(name, "10.0.0.19")
	pool.DeletionTimestamp, pool.Finalizers = &metav1.Time{Time: metav1.Now().Time}, []string{"x/y"}
	return pool
}

// The pools empty, one and two have as many addresses.
func TestPoolsAreChosenBeforeTheFirstClaim(t *testing.T) {
	pools := func() []client.Object {
		return []client.Object{
			poolOf("empty", "10.0.0.9"), poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.11"),
			stating(poolOf("far", "10.0.0.19"), "elsewhere"), terminatingPool("going"),
			inGroup(poolOf("b", "10.0.0.10"), "g"), inGroup(poolOf("a", "10.0.0.10"), "g"), inGroup(poolOf("alone", "10.0.0.10"), "h"),
		}
	}
	for name, test := range map[string]struct {
		addresses []string
		want      string
		warnings  []string
	}{
		"the first choice":                            {[]string{"one|two"}, "one", nil},
		"the second, if the first is full":            {[]string{"empty|two"}, "two", nil},
		"the second, if the first is being deleted":   {[]string{"going|two"}, "two", nil},
		"the second, if the first is not there":       {[]string{"none|two"}, "two", []string{`IPPool "none" not found`}},
		"the second, if the first is for others":      {[]string{"far|two"}, "two", []string{`is for networks "elsewhere" only`}},
		"the second, if the first is a group of none": {[]string{"@x|two"}, "two", []string{"no pool in namespace"}},
		"no warning of what comes behind":             {[]string{"one|none"}, "one", nil},
		"a pool for each address":                     {[]string{"one", "two"}, "one two", nil},
		"one pool for two addresses":                  {[]string{"two", "two"}, "two two", nil},
		"what leaves enough for those behind":         {[]string{"one|two", "one"}, "two one", nil},
		"what leaves enough for all behind":           {[]string{"one|two", "one|two", "one|two"}, "one two two", nil},
		"of a group the first by name":                {[]string{"@g"}, "a", nil},
		"of a group the next, for the next address":   {[]string{"@g", "@g"}, "a b", nil},
		"a pool behind a group":                       {[]string{"@g|two", "@g", "@g"}, "two a b", nil},
		"an address that another wishes for as well":  {[]string{"two=10.0.0.11|one", "two=10.0.0.11|one"}, "two one", nil},
		"an address that another one must have":       {[]string{"two=10.0.0.11|one", "two=10.0.0.11"}, "one two", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := played(t, pools()...)
			attempt := a.attempt(choosingFrom(test.addresses...))
			err := a.plan(t.Context(), attempt)
			var chosen []string
			for _, al := range attempt.allocations {
				chosen = append(chosen, al.want.Pool.Name)
			}
			if err != nil || strings.Join(chosen, " ") != test.want {
				t.Errorf("got %v and error %v, want %s", chosen, err, test.want)
			}
			if !slices.EqualFunc(attempt.Warnings, test.warnings, strings.Contains) {
				t.Errorf("got warnings %q, want %q", attempt.Warnings, test.warnings)
			}
		})
	}
}

func TestWhatNoChoiceCanServeIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		addresses []string
		reason    ipam.Reason
		text      string
		waitsFor  string
	}{
		"by all of them": {
			[]string{"going|none|empty|far"}, ipam.PoolExhausted,
			`no pool asked for by annotation x of y can serve: IPPool "going" is being deleted, IPPool "none" not found, IPPool "empty" is exhausted, ` +
				`IPPool "far" is for other networks; add addresses to one of them, or name or label another`, "going none empty",
		},
		"the first reason, if none is full":           {[]string{"none|going"}, ipam.PoolNotFound, `IPPool "none" not found, IPPool "going" is being deleted`, "none going"},
		"a group of none":                             {[]string{"@x"}, ipam.NoPoolMatches, `no pool in namespace "ns" carries cluster.x-k8s.io/ip-pool-group=x, asked for by annotation x of y: label a pool, or correct the annotation there`, ""},
		"a group of one like that pool":               {[]string{"@h", "@h"}, ipam.PoolExhausted, `IPPool "alone" in namespace "ns" is exhausted: 0 of 1 addresses in use and the machine needs 2; add`, "alone"},
		"room for each, not for all":                  {[]string{"one|two", "one", "two", "two"}, ipam.PoolExhausted, `IPPool "one" is exhausted, IPPool "two" is exhausted`, "one two"},
		"room for each of one choice, not for both":   {[]string{"one", "one"}, ipam.PoolExhausted, `IPPool "one" in namespace "ns" is exhausted: 0 of 1 addresses in use and the machine needs 2`, "one"},
		"the first pool that is short, not the first": {[]string{"two", "one|alone", "one|alone", "one|alone"}, ipam.PoolExhausted, `IPPool "one" in namespace "ns" is exhausted: 0 of 1 addresses in use and the machine needs 3`, "one"},
		"by what they are for":                        {[]string{"far|zone-b|theirs"}, ipam.PoolNotForNetwork, `IPPool "far" is for other networks, IPPool "zone-b" is for other failure domains, IPPool "theirs" is for others;`, ""},
		"one address twice":                           {[]string{"two=10.0.0.11", "two=10.0.0.11"}, ipam.PoolNameInvalid, `10.0.0.11 of IPPool "two" in namespace "ns", which annotation x of y wants, is wanted for another address of the machine as well: ask for it once`, ""},
		"a given address that is not the cause":       {[]string{"two=10.0.0.11", "empty"}, ipam.PoolExhausted, `"empty" in namespace "ns" is exhausted: 0 of 0`, "empty"},
		"the third of three":                          {[]string{"one", "two", "empty"}, ipam.PoolExhausted, `"empty" in namespace "ns" is exhausted: 0 of 0`, "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			a := played(t, poolOf("empty", "10.0.0.9"), poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.11"),
				stating(poolOf("far", "10.0.0.19"), "elsewhere"), terminatingPool("going"), inGroup(poolOf("alone", "10.0.0.10"), "h"),
				annotated(poolOf("zone-b", "10.0.0.19"), ipam.FailureDomainsAnnotation, "b"), annotated(poolOf("theirs", "10.0.0.19"), ipam.UsedByAnnotation, "theirs"))
			_, err := a.Check(t.Context(), choosingFrom(test.addresses...))
			refusal, ok := ipam.AsRefusal(err)
			if !ok || refusal.Reason != test.reason || !strings.Contains(refusal.Message, test.text) {
				t.Fatalf("got %v, want a refusal %s with %q", err, test.reason, test.text)
			}
			var waitsFor []string
			for _, short := range refusal.Shortages {
				waitsFor = append(waitsFor, short.Pool.Name)
			}
			if strings.Join(waitsFor, " ") != test.waitsFor {
				t.Errorf("waits for %v, want %s", waitsFor, test.waitsFor)
			}
		})
	}
}

// A repeated request keeps its address, whatever is free by now.
func TestClaimThatExistsDecidesForItsPool(t *testing.T) {
	for name, test := range map[string]struct {
		claim *ipamv1.IPClaim
		want  string
	}{
		"its own":                     {claimNamed("cp-0-0", "two"), "two"},
		"of a pool that is no choice": {claimNamed("cp-0-0", "other"), "one"},
		"that failed": {func() *ipamv1.IPClaim {
			claim, failure := claimNamed("cp-0-0", "two"), "Exhausted IP Pools"
			claim.Status.ErrorMessage = &failure
			return claim
		}(), "one"},
	} {
		t.Run(name, func(t *testing.T) {
			a := played(t, poolOf("one", "10.0.0.10"), poolOf("two", "10.0.0.11"), test.claim)
			attempt := a.attempt(choosingFrom("one|two"))
			if err := a.plan(t.Context(), attempt); err != nil || attempt.allocations[0].want.Pool.Name != test.want {
				t.Errorf("got %v and error %v, want %s", attempt.allocations[0].want.Pool, err, test.want)
			}
		})
	}
}

// What was chosen stays once a claim may be there: the others of the request have theirs.
func TestWhatWasChosenStaysWhenClaimsAreMade(t *testing.T) {
	one := poolOf("one", "10.0.0.10")
	a := played(t, one, poolOf("two", "10.0.0.11"))
	attempt := a.attempt(choosingFrom("one|two"))
	if err := a.plan(t.Context(), attempt); err != nil {
		t.Fatal(err)
	}
	address := &ipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "one-10-0-0-10"}}
	address.Spec.Address, address.Spec.Pool.Name = "10.0.0.10", "one"
	if err := a.client.Create(t.Context(), address); err != nil {
		t.Fatal(err)
	}

	attempt.claiming = true
	if refusal, ok := ipam.AsRefusal(a.plan(t.Context(), attempt)); !ok || refusal.Reason != ipam.PoolExhausted {
		t.Errorf("with claims: got %v, want a refusal %s", refusal, ipam.PoolExhausted)
	}
	attempt.claiming = false
	if err := a.plan(t.Context(), attempt); err != nil || attempt.allocations[0].want.Pool.Name != "two" {
		t.Errorf("without claims: got %v and error %v, want pool two", attempt.allocations[0].want.Pool, err)
	}
}

// Sixty-four addresses with sixteen choices each have more combinations than can be looked at.
func TestSearchForACombinationEnds(t *testing.T) {
	looks := 0
	full := ipam.Pool{Free: func(claims []string) (uint64, uint64) { return 63, uint64(len(claims)) }}
	c := choosing{candidates: slices.Repeat([]int{16}, 64), look: func(address, _ int) (*offer, error) {
		looks++
		return &offer{pool: full, claim: string(rune('a' + address))}, nil
	}}
	if found, err := c.choose(); found || err != nil {
		t.Errorf("got %t and error %v, want none", found, err)
	}
	if looks > maxSteps {
		t.Errorf("looked %d times", looks)
	}
}
