package inventory

// meanings are what each check finds, in the words that docs/checks.md begins with.
var meanings = map[CheckID]string{
	AddressTwice:      "one address on two machines or VMs",
	PoolsOverlap:      "pools with addresses in common",
	OutsideItsPool:    "addresses outside of the ranges of their pool",
	ClaimOfNobody:     "a claim of nobody",
	ProtectedNobody:   "a protected address of nobody",
	NotBound:          "an address in use that is not kept for its user",
	NoSource:          "a machine that waits, without a source of addresses",
	PoolGivesNeeded:   "a pool that hands out what something else needs",
	PoolsOfOneName:    "two pools of one name",
	TooFewForRollOut:  "too few free addresses for a roll-out",
	WebhookUnready:    "machines are not sent to the manager, or it cannot answer",
	GuestDisagrees:    "a guest that reports another address",
	RefusedForNothing: "refused, and its pool has enough by now",
	AdapterClaim:      "a claim of the static IP adapter that is not adopted",
	StaysBehind:       "a pool that stays behind in a move",
	ClaimFailed:       "a claim that its provider has given up",
	ByHandInPool:      "an address written by hand that a pool may hand out",
	DeletionHangs:     "a deletion that hangs",
	FrozenNow:         "what is frozen",
	GuestInPool:       "a virtual machine in vCenter with an address of a pool that is not kept for it",
}

// Means says in a few words what the check finds.
func (id CheckID) Means() string { return meanings[id] }
