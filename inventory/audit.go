package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
)

// Severity says how bad a finding is.
type Severity string

// Severities of findings.
const (
	// Failing breaks what capv-static-ip promises, or keeps it from working.
	Failing Severity = "error"
	// Risky is what may become an error, or what stands in somebody's way.
	Risky Severity = "warning"
)

// CheckID is the number of a check. It is never given to another one.
type CheckID string

// The checks. docs/checks.md has a section for each.
const (
	AddressTwice      CheckID = "SIP-001"
	PoolsOverlap      CheckID = "SIP-002"
	OutsideItsPool    CheckID = "SIP-003"
	ClaimOfNobody     CheckID = "SIP-004"
	ProtectedNobody   CheckID = "SIP-005"
	NotBound          CheckID = "SIP-006"
	NoSource          CheckID = "SIP-007"
	PoolGivesNeeded   CheckID = "SIP-008"
	PoolsOfOneName    CheckID = "SIP-009"
	TooFewForRollOut  CheckID = "SIP-010"
	WebhookUnready    CheckID = "SIP-011"
	GuestDisagrees    CheckID = "SIP-012"
	RefusedForNothing CheckID = "SIP-013"
	AdapterClaim      CheckID = "SIP-014"
	StaysBehind       CheckID = "SIP-015"
	ClaimFailed       CheckID = "SIP-016"
	ByHandInPool      CheckID = "SIP-017"
	DeletionHangs     CheckID = "SIP-018"
	FrozenNow         CheckID = "SIP-019"
	GuestInPool       CheckID = "SIP-020"
)

// Finding is something that is not as it should be.
type Finding struct {
	Check    CheckID
	Severity Severity
	// Object is what it is about, for people. With Check it is the same on a second look.
	Object string
	// NamespacedName is that of the object.
	types.NamespacedName
	// Text says what is wrong, and Remedy what to do about it.
	Text, Remedy string
	// Involved are all objects that it was seen on.
	Involved []Involved
	// Addresses and Pools are those that it is about.
	Addresses []netip.Addr
	Pools     []PoolKey
	// Beside says what is wrong in words that go on after who has the address, empty if it
	// takes all of Text.
	Beside  string
	settled bool
}

// Involved is an object that a finding was seen on.
type Involved struct {
	Kind string
	types.NamespacedName
}

// String names the object as sentences do.
func (i Involved) String() string {
	return i.Kind + " " + strings.TrimPrefix(i.NamespacedName.String(), "/")
}

// about is a finding about one object.
func about(check CheckID, severity Severity, object Involved) *Finding {
	return &Finding{Check: check, Severity: severity, Object: object.String(), NamespacedName: object.NamespacedName, Involved: []Involved{object}}
}

func (f *Finding) because(format string, args ...any) *Finding {
	f.Text = fmt.Sprintf(format, args...)
	return f
}

func (f *Finding) remedy(format string, args ...any) *Finding {
	f.Remedy = fmt.Sprintf(format, args...)
	return f
}

// on notes an address that it is about. What a provider wrote may be none.
func (f *Finding) on(ip netip.Addr) *Finding {
	if ip.IsValid() {
		f.Addresses = append(f.Addresses, ip)
	}
	return f
}

// in notes a pool that it is about, once.
func (f *Finding) in(pool *Pool) *Finding {
	if pool != nil && !slices.Contains(f.Pools, pool.PoolKey) {
		f.Pools = append(f.Pools, pool.PoolKey)
	}
	return f
}

// Limits are for how long something may be as it is before it is a finding.
type Limits struct {
	// Claim is how long a claim may be without a machine.
	Claim time.Duration
	// ReuseAfter is for how long addresses cool down of which the pool does not say it.
	ReuseAfter time.Duration
}

// OutsideLimits are for those who do not know the manager's own, which are its flags: above
// what is set there, so that nothing is told of that the manager is about to do.
func OutsideLimits() Limits { return Limits{Claim: 10 * time.Minute, ReuseAfter: 24 * time.Hour} }

// Kinds that checks need, as Unseen names them.
var (
	machineKinds    = []string{"VSphereMachines"}
	vmKinds         = []string{"VSphereMachines", "VSphereVMs"}
	clusterKinds    = []string{"Clusters"}
	endpointKinds   = append([]string{"VSphereClusters"}, clusterKinds...)
	poolKinds       = []string{"IPPools", "InClusterIPPools", "GlobalInClusterIPPools"}
	claimKinds      = []string{"IPClaims", "IPAddressClaims", "IPAddresses"}
	workloadsNeeded = []string{"VSphereMachineTemplates", "MachineDeployments", "KubeadmControlPlanes"}
	ownersNeeded    = []string{"MachineSets", "KubeadmControlPlanes"}
	webhookKinds    = []string{"MutatingWebhookConfigurations", "EndpointSlices", "Certificates"}
)

// check is how to find something.
type check struct {
	id CheckID
	// needs are the kinds of which nothing may be missing: what is not seen would look as if
	// it were not there.
	needs []string
	find  func(*audit) []*Finding
	// settled says that a finding is seen on one object, or on what rarely changes, so that
	// a second look would show it again.
	settled bool
}

// checks are all of them, by their numbers.
func checks() []check {
	return []check{
		{AddressTwice, slices.Concat(vmKinds, endpointKinds), (*audit).addressTwice, false},
		{PoolsOverlap, poolKinds, (*audit).poolsOverlap, true},
		{OutsideItsPool, slices.Concat(poolKinds, claimKinds), (*audit).outsideItsPool, false},
		{ClaimOfNobody, slices.Concat(machineKinds, endpointKinds, poolKinds, claimKinds), (*audit).claimOfNobody, false},
		{ProtectedNobody, slices.Concat(vmKinds, endpointKinds, poolKinds, claimKinds), (*audit).protectedNobody, false},
		{NotBound, slices.Concat(vmKinds, endpointKinds, poolKinds, claimKinds), (*audit).notBound, false},
		{NoSource, machineKinds, (*audit).noSource, false},
		{PoolGivesNeeded, slices.Concat(poolKinds, endpointKinds, claimKinds), (*audit).poolGivesNeeded, false},
		{PoolsOfOneName, poolKinds, (*audit).poolsOfOneName, true},
		{TooFewForRollOut, slices.Concat(machineKinds, poolKinds, claimKinds, workloadsNeeded), (*audit).tooFewForRollOut, false},
		{WebhookUnready, webhookKinds, (*audit).webhookUnready, false},
		{GuestDisagrees, vmKinds, (*audit).guestDisagrees, false},
		{RefusedForNothing, slices.Concat(poolKinds, claimKinds, ownersNeeded), (*audit).refusedForNothing, false},
		{AdapterClaim, slices.Concat(machineKinds, claimKinds), (*audit).adapterClaim, false},
		{StaysBehind, poolKinds, (*audit).staysBehind, true},
		{ClaimFailed, claimKinds, (*audit).claimFailed, false},
		{ByHandInPool, slices.Concat(machineKinds, poolKinds, claimKinds), (*audit).byHandInPool, false},
		{DeletionHangs, slices.Concat(vmKinds, endpointKinds, claimKinds), (*audit).deletionHangs, false},
		{FrozenNow, poolKinds, (*audit).frozenNow, true},
		{GuestInPool, slices.Concat(vmKinds, endpointKinds, poolKinds, claimKinds), (*audit).guestsInPools, false},
	}
}

// CheckIDs are the numbers of all checks.
func CheckIDs() []CheckID {
	var ids []CheckID
	for _, c := range checks() {
		ids = append(ids, c.id)
	}
	return ids
}

// LeftOut is a check that could not be made, or not wholly.
type LeftOut struct {
	Check CheckID
	// Unseen are the kinds that it needs.
	Unseen []string
	// Partly says that it was made, without these.
	Partly bool
}

// String is a sentence for people.
func (l LeftOut) String() string {
	if l.Partly {
		return fmt.Sprintf("%s does not see %s", l.Check, strings.Join(l.Unseen, "; "))
	}
	return fmt.Sprintf("%s is left out: it needs %s", l.Check, strings.Join(l.Unseen, ", "))
}

// Findings are what is wrong in the Graph by these checks, all if there are none, sorted by
// severity and check. What the checks need and is not seen leaves them out.
func (g *Graph) Findings(limits Limits, only ...CheckID) ([]Finding, []LeftOut) {
	a := newAudit(g.asAsked(), limits)
	var findings []Finding
	var left []LeftOut
	for _, c := range checks() {
		if len(only) > 0 && !slices.Contains(only, c.id) || !g.Makes(c.id) {
			continue
		}
		if unseen := g.unseenOf(c.needs); len(unseen) > 0 {
			left = append(left, LeftOut{Check: c.id, Unseen: unseen})
			continue
		}
		if c.id == GuestInPool {
			if unlooked := g.unlooked(); unlooked != nil {
				left = append(left, *unlooked)
			}
		}
		for _, finding := range c.find(a) {
			finding.settled = c.settled
			a.locate(finding)
			findings = append(findings, *finding)
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Check, b.Check), cmp.Compare(a.Object, b.Object))
	})
	return findings, left
}

// asAsked is the Graph without what pools of all namespaces have given to others than the
// namespace that was asked for. How full such a pool is cannot be told without it, but the
// machines of others are not known: what they have would look as if nobody had it.
func (g *Graph) asAsked() *Graph {
	if g.asked == "" {
		return g
	}
	asked := *g
	asked.Pools, asked.byKey = slices.Clone(g.Pools), maps.Clone(g.byKey)
	for i, pool := range asked.Pools {
		if pool.Namespace != "" {
			continue
		}
		of := *pool
		of.Claims = slices.DeleteFunc(slices.Clone(pool.Claims), func(c ipam.Claim) bool { return c.GetNamespace() != g.asked })
		of.Addresses = slices.DeleteFunc(slices.Clone(pool.Addresses), func(a Address) bool { return a.GetNamespace() != g.asked })
		asked.Pools[i], asked.byKey[of.PoolKey] = &of, &of
	}
	return &asked
}

// unseenOf are those of the kinds that could not be listed.
func (g *Graph) unseenOf(kinds []string) []string {
	missing := slices.Clone(g.unread)
	for _, u := range g.Unseen {
		missing = append(missing, u.Kind)
	}
	var unseen []string
	for _, kind := range kinds {
		if slices.Contains(missing, kind) && !slices.Contains(unseen, kind) {
			unseen = append(unseen, kind)
		}
	}
	return unseen
}
