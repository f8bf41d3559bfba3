package lifecycle

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
)

func TestNextStepForALivingMachine(t *testing.T) {
	moving := living()
	moving.moving = true
	tests := map[string]struct {
		machine machineState
		holding holding
		want    step
	}{
		"complete: adopt, which changes what is missing": {living(), bound(), adopt},
		"not adopted yet":                                     {living(), bound(withoutOwner, unprotected), adopt},
		"provider busy":                                       {living(), bound(withoutOwner, busy), idle},
		"provider busy, address not protected":                {living(), bound(withoutOwner, unprotected, busy), adopt},
		"provider busy for long":                              {old(), bound(withoutOwner, busy), adopt},
		"not bound yet":                                       {living(), bound(withoutAddress), idle},
		"paused":                                              {living(), bound(paused), idle},
		"being moved away, the address stays":                 {moving, bound(), markMoved},
		"being moved away, noted on the address":              {moving, bound(movedAway), idle},
		"being moved away, unprotected":                       {moving, bound(unprotected), idle},
		"claim of another machine, annotated here":            {living(), bound(anothers), idle},
		"address of another machine, annotated here":          {living(), bound(anothers, withoutClaim), idle},
		"unowned claim without our mark, annotated here":      {living(), bound(withoutOwner, withoutMark), idle},
		"unowned claim whose address another machine holds":   {living(), bound(withoutOwner, shared), idle},
		"claim of the adapter":                                {living(), bound(ofAdapter, unprotected), adopt},
		"claim of the adapter for another address":            {living(), bound(ofAdapter, unprotected, otherAddress), report},
		"claim of anybody's, of that name and address":        {living(), bound(anybodys, unprotected), idle},
		"claim offered to the machine":                        {living(), bound(offered("cp-0"), unprotected), adopt},
		"claim offered to another machine":                    {living(), bound(offered("cp-1"), unprotected), idle},
		"claim offered, for another address":                  {living(), bound(offered("cp-0"), unprotected, otherAddress), idle},
		"claim offered, whose address is shared":              {living(), bound(offered("cp-0"), unprotected, shared), idle},
		"claim not annotated":                                 {living(), bound(withoutAnnotation), idle},
		"claim going":                                         {living(), bound(terminatingClaim), idle},
		"claim going, held by us":                             {living(), bound(terminatingClaim, held), removeClaimFinalizer},
		"claim going, held by us, address unprotected":        {living(), bound(terminatingClaim, held, unprotected), protect},
		"claim going, held by us, paused":                     {living(), bound(terminatingClaim, held, paused), idle},
		"claim going, held by us, by clusterctl":              {living(), bound(terminatingClaim, held, movingClaim), markMoved},
		"another machine's claim going, annotated here":       {living(), bound(anothers, terminatingClaim, held), idle},
		"claim gone, address protected":                       {living(), bound(withoutClaim), recreate},
		"claim gone, address protected and going":             {living(), bound(withoutClaim, terminatingAddress), recreate},
		"claim gone, address protected, UID from before move": {living(), bound(withoutClaim, earlierUID), recreate},
		"claim gone, address protected, on no device":         {living(), bound(withoutClaim, offDevice), protect},
		"claim and address gone, on no device":                {living(), bound(withoutClaim, withoutAddress, offDevice), idle},
		"claim gone, address placed before it":                {living(), bound(withoutClaim, placed), recreate},
		"claim gone, address placed before it, and going":     {living(), bound(withoutClaim, placed, terminatingAddress), protect},
		"claim recreated, not bound yet":                      {living(), bound(recreated), idle},
		"claim recreated, bound":                              {living(), bound(recreated, named), verify},
		"claim recreated, bound to another address":           {living(), bound(recreated, named, otherAddress), deleteFailed},
		"claim gone, paused":                                  {living(), bound(withoutClaim, paused), idle},
		"claim gone, address not protected yet":               {living(), bound(withoutClaim, unprotected), protect},
		"claim gone, unprotected address going":               {living(), bound(withoutClaim, unprotected, terminatingAddress), report},
		"claim and address gone":                              {living(), bound(withoutClaim, withoutAddress), recreate},
		"claim gone, protected, provider cannot be asked":     {living(), bound(withoutClaim, unrequestable), protect},
		"both gone, provider cannot be asked":                 {living(), bound(withoutClaim, withoutAddress, unrequestable), report},
		"both gone, paused":                                   {living(), bound(withoutClaim, withoutAddress, paused), idle},
		"claim bound to another address":                      {living(), bound(otherAddress), report},
		"claim recreated and refused":                         {living(), bound(refused), report},
		"claim refused a while ago":                           {living(), bound(refused, claimMade(failedClaimAge)), deleteFailed},
		"claim refused, provider cannot be asked":             {living(), bound(refused, claimMade(failedClaimAge), unrequestable), report},
		"spare address of its admission, young":               {living(), spare(0), idle},
		"spare address of its admission, just seen":           {living(), spare(grace, seenBefore(time.Second)), idle},
		"spare address of its admission, seen for long":       {living(), spare(time.Hour, seenBefore(grace)), unprotect},
		"spare address of its admission, made in the future":  {living(), spare(-time.Hour, seenBefore(grace)), unprotect},
		"spare address of its admission, old":                 {living(), spare(grace), unprotect},
		"spare address, in the machine's annotation":          {living(), spare(grace, inAnnotation), idle},
		"spare address, on a device":                          {living(), spare(grace, onDevice), idle},
		"spare address, its claim is not bound yet":           {living(), spare(grace, madeFor()), idle},
		"spare address, its claim names it":                   {living(), spare(grace, madeFor(naming("address"))), idle},
		"spare address, its claim names another":              {living(), spare(grace, madeFor(naming("other"))), unprotect},
		"spare address, made twice for the machine's claim":   {living(), spare(grace, madeFor(naming("address")), rebound), unprotect},
		"address of an earlier machine, its VM gone":          {living(), bound(withoutClaim, withoutAnnotation, earlierUID, departed), unprotect},
		"address of an earlier machine, unexplained":          {living(), bound(withoutClaim, withoutAnnotation, earlierUID, seenBefore(0)), idle},
		"address of an earlier machine, its VM there":         {living(), bound(withoutClaim, withoutAnnotation, earlierUID, withVM), idle},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, _ := decide(test.machine, test.holding, now, grace); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Until it is served, it does not say that it has them.
func TestClaimsOfAMachineThatIsServedLateAreLeftAloneUntilItGoes(t *testing.T) {
	oldClaim := func(h *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		withoutAnnotation(h, c, a)
		usedBefore(2*restorePatience)(h, c, a)
		made(2*restorePatience)(h, c, a)
		h.seen = now.Add(-2 * restorePatience)
	}
	tests := map[string]struct {
		machine machineState
		holding holding
		want    step
	}{
		"bound":                             {living(), bound(oldClaim), idle},
		"bound, not protected yet":          {living(), bound(oldClaim, unprotected), idle},
		"not bound":                         {living(), bound(oldClaim, withoutAddress), idle},
		"failed":                            {living(), bound(oldClaim, withoutAddress, refused), idle},
		"old":                               {old(), bound(oldClaim), idle},
		"its claim is gone":                 {living(), bound(oldClaim, withoutClaim), idle},
		"it goes":                           {dying(), bound(oldClaim), release},
		"it goes, its address unprotected":  {dying(), bound(oldClaim, unprotected), release},
		"it goes, not bound":                {dying(), bound(oldClaim, withoutAddress), release},
		"it is gone, the claim not yet":     {absent(), bound(oldClaim), idle},
		"it is gone, its claim is going":    {absent(), bound(oldClaim, terminatingClaim, held, unprotected), removeClaimFinalizer},
		"it is gone, the claim goes before": {absent(), bound(oldClaim, terminatingClaim, held, departed), unprotect},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, _ := decide(test.machine, test.holding, now, grace); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Nothing else tells that its pool has gone meanwhile.
func TestClaimThatIsGoingIsLookedAtAgainWhileItsMachineLives(t *testing.T) {
	if got, wait := decide(living(), bound(terminatingClaim), now, grace); got != idle || wait != terminatingCheck {
		t.Errorf("got %q after %s, want %q after %s", got, wait, idle, terminatingCheck)
	}
}

// A create that came in twice leaves claims that its machine is not stored with.
func TestNextStepForAClaimThatALivingMachineDoesNotUse(t *testing.T) {
	long := living()
	long.created = now.Add(-grace)
	unbound := func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Spec.Address, c.Status.Address = "", nil }
	tests := map[string]struct {
		machine machineState
		holding holding
		want    step
		wait    time.Duration
	}{
		"both young":                               {living(), spareClaim(0), idle, grace},
		"claim used a while ago":                   {long, spareClaim(grace - time.Second), idle, time.Second},
		"claim old, machine stored just now":       {living(), spareClaim(grace), idle, grace},
		"both old":                                 {long, spareClaim(grace), reap, 0},
		"both old, never bound":                    {long, spareClaim(grace, unbound), reap, 0},
		"both old, kept":                           {long, spareClaim(grace, kept), reap, 0},
		"both old, seen to change just now":        {long, spareClaim(grace, seenBefore(0)), idle, grace},
		"both old, its address cannot be seen":     {long, spareClaim(grace, named, withoutAddress), idle, 0},
		"both old, its address on a device":        {long, spareClaim(grace, onDevice), idle, vmCheck},
		"both old, its address on a VM":            {long, spareClaim(grace, withVM), idle, vmCheck},
		"both old, its address on another machine": {long, spareClaim(grace, shared), idle, vmCheck},
		"both old, in the machine's annotation":    {long, spareClaim(grace, inAnnotation), idle, vmCheck},
		"both old, its address is its own":         {long, spareClaim(grace, madeFor(itsOwn, naming("address"))), reap, 0},
		"both old, its address another claim's":    {long, spareClaim(grace, madeFor(naming("address"))), idle, vmCheck},
		"going, in the machine's annotation":       {long, spareClaim(grace, terminatingClaim, inAnnotation), idle, terminatingCheck},
		"both old, paused":                         {long, spareClaim(grace, paused), idle, 0},
		"both old, being moved":                    {long, spareClaim(grace, movingClaim, unprotected), idle, 0},
		"both old, owned":                          {long, spareClaim(grace, ownedBy("uid")), idle, 0},
		"both old, of another machine":             {long, spareClaim(grace, anothers), idle, 0},
		"both old, set aside":                      {long, spareClaim(grace, setAside), idle, 0},
		"both old, adopted once":                   {long, bound(withoutOwner, withoutAnnotation, usedBefore(grace)), idle, 0},
		"both old, its address adopted":            {long, bound(withoutOwner, withoutAnnotation, requested, usedBefore(grace)), idle, 0},
		"offered, and never taken over":            {long, bound(offered("cp-0"), withoutAnnotation, unprotected, claimMade(grace)), idle, 0},
		"offered, and taken over in vain":          {long, spareClaim(grace, takenOver), handBack, 0},
		"in a binding":                             {long, bound(withoutOwner, requested, usedBefore(grace)), adopt, 0},
		"going, its address protected":             {long, spareClaim(grace, terminatingClaim), unprotect, 0},
		"going, its address on a VM":               {long, spareClaim(grace, terminatingClaim, withVM), idle, terminatingCheck},
		"going, its address free":                  {long, spareClaim(grace, terminatingClaim, bare), idle, terminatingCheck},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, wait := decide(test.machine, test.holding, now, grace); got != test.want || wait != test.wait {
				t.Errorf("got %q after %s, want %q after %s", got, wait, test.want, test.wait)
			}
		})
	}
}

func TestNextStepForAMachineBeingDeleted(t *testing.T) {
	waited, moving := dying(), dying()
	waited.done = false
	moving.moving = true
	tests := map[string]struct {
		machine machineState
		holding holding
		want    step
	}{
		"nobody else left":                              {dying(), bound(), release},
		"CAPV still works on it":                        {waited, bound(), idle},
		"moved by clusterctl":                           {moving, bound(movedAway), idle},
		"Cluster paused":                                {dying(), bound(paused), release},
		"never adopted":                                 {dying(), bound(withoutOwner, unprotected), release},
		"claim orphaned by the garbage collector":       {dying(), bound(withoutOwner), release},
		"claim going":                                   {dying(), bound(terminatingClaim, held), release},
		"claim going, CAPV still works on it":           {waited, bound(terminatingClaim, held), idle},
		"claim gone":                                    {dying(), bound(withoutClaim), release},
		"claim and address gone":                        {dying(), bound(withoutClaim, withoutAddress), idle},
		"claim of another machine, annotated here":      {dying(), bound(anothers), idle},
		"address of another machine, annotated here":    {dying(), bound(anothers, withoutClaim), idle},
		"mark of another machine, annotated here":       {dying(), bound(withoutOwner, withoutMark), idle},
		"unowned, and another machine has the address":  {dying(), bound(withoutOwner, shared), idle},
		"its VM is still there":                         {dying(), bound(withVM), idle},
		"its VM is still there, address unprotected":    {dying(), bound(withVM, unprotected), protect},
		"its VM is still there, CAPV still works on it": {waited, bound(withVM), idle},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, _ := decide(test.machine, test.holding, now, grace); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNextStepBehindAMachineThatDoesNotExist(t *testing.T) {
	orphan := func(options ...option) holding {
		return bound(append([]option{withoutOwner, withoutAnnotation, unprotected, requested}, options...)...)
	}
	adopted := func(options ...option) holding {
		return bound(append([]option{withoutOwner, withoutAnnotation, unprotected}, options...)...)
	}
	answered := func(options ...option) holding {
		return bound(append([]option{withoutOwner, withoutAnnotation, requestedFor("set")}, options...)...)
	}
	tests := map[string]struct {
		holding holding
		want    step
		wait    time.Duration
	}{
		"claim used just now":                           {orphan(), idle, grace},
		"claim used a while ago":                        {orphan(usedBefore(grace - time.Second)), idle, time.Second},
		"claim not used for the grace":                  {orphan(usedBefore(grace)), reap, 0},
		"claim without a stamp, by its age":             {orphan(withoutStamp), reap, 0},
		"old claim, seen just now":                      {orphan(usedBefore(time.Hour), seenBefore(0)), idle, grace},
		"old claim, seen a while ago":                   {orphan(usedBefore(time.Hour), seenBefore(grace)), reap, 0},
		"old stamp on a new claim":                      {orphan(usedBefore(time.Minute), stamped(-time.Hour)), idle, grace - time.Minute},
		"stamp from the future":                         {orphan(usedBefore(time.Hour), seenBefore(grace), stamped(time.Hour)), reap, 0},
		"old claim, its address on a VM":                {orphan(usedBefore(grace), withVM), idle, vmCheck},
		"adopted claim, old":                            {adopted(usedBefore(grace)), awaitMachine, restorePatience - grace},
		"adopted claim, seen just now":                  {adopted(usedBefore(24*time.Hour), seenBefore(0)), awaitMachine, restorePatience},
		"adopted claim, very old":                       {adopted(usedBefore(restorePatience)), reap, 0},
		"old claim, paused":                             {orphan(usedBefore(grace), paused), idle, 0},
		"old claim, being moved":                        {orphan(usedBefore(grace), movingClaim), idle, 0},
		"old claim, going":                              {orphan(usedBefore(grace), terminatingClaim), idle, terminatingCheck},
		"claim going, its pool is gone":                 {orphan(terminatingClaim, withoutPool), dropFinalizers, 0},
		"another's claim, its pool is gone":             {bound(anothers, terminatingClaim, withoutPool, withVM), idle, terminatingCheck},
		"old claim with an owner":                       {orphan(usedBefore(grace), ownedBy("uid")), idle, 0},
		"old claim without our mark":                    {orphan(usedBefore(grace), withoutMark), idle, 0},
		"protected address, no VM":                      {bound(withoutClaim, withoutAnnotation, departed), unprotect, 0},
		"protected address, unexplained":                {bound(withoutClaim, withoutAnnotation, seenBefore(0)), idle, restorePatience},
		"address unexplained for an hour":               {bound(withoutClaim, withoutAnnotation, seenBefore(restorePatience)), unprotect, 0},
		"protected address, going":                      {bound(withoutClaim, withoutAnnotation, seenBefore(0), terminatingAddress), unprotect, 0},
		"protected address, machine moved":              {bound(withoutClaim, withoutAnnotation, movedAway, seenBefore(0)), unprotect, 0},
		"protected address, a VM":                       {bound(withoutClaim, withoutAnnotation, withVM), idle, vmCheck},
		"protected address, paused":                     {bound(withoutClaim, withoutAnnotation, paused), idle, 0},
		"protected address, its machine is admitted":    {bound(withoutClaim, withoutAnnotation, departed, madeFor()), idle, vmCheck},
		"protected address, its claim is going":         {bound(withoutClaim, withoutAnnotation, departed, madeFor(going)), unprotect, 0},
		"protected address of an earlier claim":         {bound(withoutClaim, withoutAnnotation, departed, madeFor(), earlierClaims), unprotect, 0},
		"claim going, its address another claim's":      {bound(withoutAnnotation, terminatingClaim, madeFor()), idle, vmCheck},
		"claim going, its address its own":              {bound(withoutAnnotation, terminatingClaim, madeFor(itsOwn, going)), unprotect, 0},
		"address that is not ours to free":              {bound(withoutClaim, withoutAnnotation, unprotected, withoutLabel), idle, 0},
		"stray address, just made":                      {bound(withoutClaim, withoutAnnotation, unprotected, made(time.Minute)), idle, grace - time.Minute},
		"stray address":                                 {bound(withoutClaim, withoutAnnotation, unprotected, made(grace)), deleteStray, 0},
		"stray address that was just seen":              {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), seenBefore(time.Minute)), idle, grace - time.Minute},
		"stray address, seen for long":                  {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), seenBefore(grace)), deleteStray, 0},
		"stray address, made in the future":             {bound(withoutClaim, withoutAnnotation, unprotected, made(-time.Hour), seenBefore(grace)), deleteStray, 0},
		"stray address, made after it was seen":         {bound(withoutClaim, withoutAnnotation, unprotected, made(time.Minute), seenBefore(grace)), idle, grace - time.Minute},
		"stray address of a machine that was just seen": {bound(withoutClaim, withoutAnnotation, bare, made(restorePatience), seenBefore(grace)), idle, restorePatience - grace},
		"stray address, named":                          {bound(withoutClaim, withoutAnnotation, unprotected, withoutLabel, nameLeft, made(grace)), deleteStray, 0},
		"stray address, a VM has it":                    {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), withVM), idle, vmCheck},
		"stray address, its claim is not bound yet":     {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), madeFor()), idle, vmCheck},
		"stray address, its claim names it":             {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), madeFor(naming("address"))), idle, vmCheck},
		"stray address, its claim names another":        {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), madeFor(naming("other"))), deleteStray, 0},
		"stray address, made twice for a bound claim":   {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), madeFor(naming("address")), rebound), deleteStray, 0},
		"stray address, in the machine's annotation":    {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), inAnnotation), idle, vmCheck},
		"stray address that others hold up":             {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), foreign), idle, 0},
		"stray address of a machine":                    {bound(withoutClaim, withoutAnnotation, bare, made(grace)), idle, restorePatience - grace},
		"stray address, moved away":                     {bound(withoutClaim, withoutAnnotation, bare, movedAway, made(restorePatience)), idle, 0},
		"stray address, paused":                         {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), paused), idle, 0},
		"stray address that a machine holds":            {bound(withoutClaim, withoutAnnotation, unprotected, made(grace), shared), idle, vmCheck},
		"claim the garbage collector's":                 {bound(withoutAnnotation), idle, 0},
		"claim being deleted, no VM":                    {bound(withoutAnnotation, terminatingClaim), unprotect, 0},
		"claim being deleted, a VM":                     {bound(withoutAnnotation, terminatingClaim, held, withVM), idle, vmCheck},
		"claim held by us, address is free":             {bound(withoutAnnotation, terminatingClaim, held, unprotected), removeClaimFinalizer, 0},
		"claim held by us, no address":                  {bound(withoutAnnotation, terminatingClaim, held, withoutAddress), removeClaimFinalizer, 0},
		"claim held by us, paused":                      {bound(withoutAnnotation, terminatingClaim, held, unprotected, paused), idle, 0},
		"claim held by us, by clusterctl":               {bound(withoutAnnotation, terminatingClaim, held, unprotected, movingClaim), idle, 0},
		"address protected at admission":                {bound(withoutAnnotation, withoutOwner, requested), idle, grace},
		"claim of a protected address, old":             {bound(withoutAnnotation, withoutOwner, requested, usedBefore(grace)), reap, 0},
		"answered to an owner just now":                 {answered(), idle, storingPatience},
		"answered to an owner, not stored":              {answered(usedBefore(storingPatience)), note, noteInterval},
		"answered to an owner, soon reaped":             {answered(usedBefore(grace - time.Second)), note, time.Second},
		"answered to an owner, old":                     {answered(usedBefore(grace)), reap, 0},
		"answered to an owner, kept":                    {answered(usedBefore(storingPatience), kept), idle, grace - storingPatience},
		"answered to an owner, unprotected":             {answered(usedBefore(storingPatience), unprotected), idle, grace - storingPatience},
		"not bound for an owner":                        {answered(usedBefore(storingPatience), withoutAddress), idle, grace - storingPatience},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, wait := decide(absent(), test.holding, now, grace); got != test.want || wait != test.wait {
				t.Errorf("got %q after %s, want %q after %s", got, wait, test.want, test.wait)
			}
		})
	}
}

// What is left of an address without our finalizer, and who frees it.
func TestFateOfAnAddressThatIsUnprotected(t *testing.T) {
	left := func(options ...option) holding {
		return bound(append([]option{withoutClaim, withoutAnnotation}, options...)...)
	}
	tests := map[string]struct {
		machine machineState
		holding holding
		want    fate
	}{
		"released with its claim":                   {dying(), bound(), freed},
		"released, its claim is gone":               {dying(), bound(withoutClaim), lost},
		"released, its claim is gone, itself going": {dying(), bound(withoutClaim, terminatingAddress), freed},
		"spare":                                     {living(), spare(grace), lost},
		"spare, itself going":                       {living(), spare(grace, terminatingAddress), lost},
		"of a spare claim that is going":            {living(), spareClaim(grace, terminatingClaim), freed},
		"left, its claim is going":                  {absent(), bound(withoutAnnotation, terminatingClaim, madeFor(itsOwn, going)), freed},
		"left, a claim is going that nobody knew":   {absent(), left(madeFor(going)), freed},
		"left, its claim is gone":                   {absent(), left(), lost},
		"left, a later claim has the name":          {absent(), left(madeFor(), earlierClaims), lost},
		"left, itself going":                        {absent(), left(terminatingAddress), freed},
		"left, move noted on it":                    {absent(), left(movedAway), moved},
		"left, move seen":                           {absent(), left(seenMoved), moved},
		"left, move seen, itself going":             {absent(), left(seenMoved, terminatingAddress), moved},
		"of an earlier machine of the name":         {living(), left(earlierUID), lost},
		"of an earlier machine, its claim is going": {living(), left(earlierUID, madeFor(going)), freed},
		"of an earlier machine that moved":          {living(), left(earlierUID, seenMoved), moved},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := decideFate(test.machine, test.holding); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}
