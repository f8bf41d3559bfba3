package history

import (
	"testing"
	"time"
)

// cooling is a pool whose addresses are kept for half a minute.
func cooling() *Object {
	return &Object{Kind: Metal3Pool, Name: "workers", UID: "pool", Size: 2, CoolDown: 30 * time.Second}
}

// lived is an address of a machine that was stored with it.
func lived(machine string) *Object {
	address := addressOf(machine)
	address.MachineUID = machine
	return address
}

func cools(o *Object) *Object {
	kept := *o
	kept.Cools, kept.MachineUID = true, ""
	return &kept
}

// left is a machine that had an address of a pool which keeps it, and went.
func left() *script {
	a := machineOf("a", address)
	return newScript().store(cooling()).store(lived("a")).store(a).store(deleted(a, start, releaseFinalizer)).store(cools(addressOf("a"))).gone(a)
}

func TestAddressIsNotGivenBeforeItHasCooledDown(t *testing.T) {
	t.Parallel()
	b := machineOf("b", address)
	for name, test := range map[string]verdict{
		"at once":           {want: []Rule{Hot}, script: left().store(addressOf("b")).store(b)},
		"when it is cool":   {script: left().pass(time.Minute).store(addressOf("b")).store(b)},
		"of another pool":   {script: newScript().store(lived("a")).store(machineOf("a", address)).gone(machineOf("a", address)).store(addressOf("b")).store(b)},
		"to who had it":     {script: left().store(lived("a")).store(machineOf("a", address))},
		"brought by hand":   {script: left().store(byHand(b))},
		"by a wrong clock":  {script: amid("wrong-clock", left().store(addressOf("b")).store(b))},
		"while seen late":   {script: amid("pause-etcd", left().store(addressOf("b")).store(b))},
		"despite of others": {want: []Rule{Hot}, script: amid("kill-leader", left().store(addressOf("b")).store(b))},
		"of a machine that was never stored": {script: newScript().store(cooling()).store(addressOf("a")).store(machineOf("a", address)).
			gone(machineOf("a", address)).store(addressOf("b")).store(b)},
		"after its machine was forged a while": {want: []Rule{Hot}, script: newScript().store(cooling()).store(lived("a")).store(machineOf("a", address)).
			store(byHand(machineOf("f", address))).gone(machineOf("f", address)).gone(machineOf("a", address)).store(addressOf("b")).store(b)},
	} {
		test.check(t, name)
	}
}

// freezing is a history in which something is frozen from then on.
func (s *script) freezing(pool string) *script {
	s.id++
	return s.add(Record{Op: &Op{ID: s.id, Kind: Freeze, Namespace: ns, Name: pool, Phase: End, Outcome: Done}}).pass(DefaultLimits().Blind)
}

func (s *script) thawing(pool string) *script {
	s.id++
	return s.add(Record{Op: &Op{ID: s.id, Kind: Thaw, Namespace: ns, Name: pool, Phase: Begin}})
}

func TestNothingIsGivenOrGivenBackWhileThatIsFrozen(t *testing.T) {
	t.Parallel()
	a, in := machineOf("a", address), addressOf("a")
	for name, test := range map[string]verdict{
		"given of a frozen pool":           {want: []Rule{Frozen}, script: newScript().freezing(pool).store(in).store(a).thawing(pool)},
		"given in a frozen namespace":      {want: []Rule{Frozen}, script: newScript().freezing("").store(in).store(a).thawing("")},
		"given back to a frozen pool":      {want: []Rule{Frozen}, script: newScript().store(in).freezing(pool).gone(in).thawing(pool)},
		"given before":                     {script: newScript().store(in).store(a).freezing(pool).store(a).thawing(pool)},
		"given after":                      {script: newScript().freezing(pool).thawing(pool).store(in).store(a)},
		"given of another pool":            {script: newScript().freezing("IPPool/other").store(in).store(a).thawing("IPPool/other")},
		"brought by hand":                  {script: newScript().store(in).freezing(pool).store(byHand(a)).thawing(pool)},
		"where it may not have been heard": {script: amid("late-watches", newScript().freezing(pool).store(in).store(a).thawing(pool))},
		"despite of others":                {want: []Rule{Frozen}, script: amid("kill-leader", newScript().freezing(pool).store(in).store(a).thawing(pool))},
		"deleted by hand": {script: newScript().store(in).freezing(pool).
			add(Record{Fault: &Fault{ID: 7, Kind: "delete-claim", Phase: Begin, Target: "IPClaim " + ns + "/" + in.Claim}}).gone(in).thawing(pool)},
	} {
		test.check(t, name)
	}
}

func TestWhatIsLeftInANamespaceThatIsGoneIsNotJudged(t *testing.T) {
	t.Parallel()
	claim := claimOf("a")
	wedged := deleted(claim, start.Add(-time.Hour), "provider")
	end := func(kind, text string) *script {
		return newScript().store(wedged).add(Record{Fault: &Fault{ID: 8, Kind: kind, Phase: End, Target: ns + " " + pool, Text: text}})
	}
	for name, test := range map[string]verdict{
		"deleted":                 {script: end(DeletePool, "").mark(Settled)},
		"not gone yet":            {want: []Rule{Leaked, Wedged}, script: end(DeleteNamespace, "it is not gone").mark(Settled)},
		"that lives":              {want: []Rule{Leaked, Wedged}, script: end("freeze", "").mark(Settled)},
		"whose Cluster is lost":   {want: []Rule{Moved}, script: newScript().store(wedged).op(Move, Failed, "killed").mark(Settled)},
		"whose Cluster was moved": {want: []Rule{Leaked, Wedged}, script: newScript().store(wedged).op(Move, Done, "").mark(Settled)},
	} {
		test.check(t, name)
	}
}

func TestPoolThatAddressesAreMovedFromNeedNotServe(t *testing.T) {
	t.Parallel()
	moved := &Object{Kind: Metal3Pool, Name: "workers", UID: "pool", Size: 2, Migrating: true}
	verdict{script: newScript().store(moved).create(Refused, "IPPool is exhausted: 2 of 2")}.check(t, "moved")
}

// amid is a history in which something was broken all the while.
func amid(kind string, s *script) *script {
	begin, end := &Fault{ID: 1, Kind: kind, Phase: Begin}, &Fault{ID: 1, Kind: kind, Phase: End}
	s.records = append([]Record{{Time: start, Fault: begin}}, s.records...)
	return s.add(Record{Fault: end})
}

func TestWhatIsKeptForSomeoneIsNotLeft(t *testing.T) {
	t.Parallel()
	aside := claimOf("")
	aside.SetAside, aside.Address = true, addressOf("").Name
	answer := addressOf("")
	answer.Claim = aside.Name
	bound := claimOf("a")
	bound.Address = addressOf("a").Name
	for name, test := range map[string]verdict{
		"while it cools":                {script: left().store(cools(claimOf("a"))).mark(Settled)},
		"long after it has cooled":      {want: []Rule{Leaked, Leaked}, script: left().store(cools(claimOf("a"))).pass(10 * time.Minute).mark(Settled)},
		"where nothing cools":           {want: []Rule{Leaked}, script: newScript().store(cools(claimOf("a"))).pass(time.Minute).mark(Settled)},
		"aside, since somebody has it":  {script: newScript().store(aside).store(answer).store(byHand(machineOf("f", address))).mark(Settled)},
		"aside, for nobody":             {want: []Rule{Leaked}, script: newScript().store(aside).store(answer).mark(Settled)},
		"like one that a backup brings": {script: newScript().store(lived("a")).mark(Settled)},
		"like that, for too long":       {want: []Rule{Leaked}, script: newScript().store(lived("a")).pass(2 * time.Hour).mark(Settled)},
		"like that, to a new leader":    {script: amidAtTheEnd(newScript().store(lived("a")).pass(2 * time.Hour)).mark(Settled)},
		"like that, and protected":      {want: []Rule{Leaked}, script: newScript().store(protected(lived("a"))).mark(Settled)},
		"like that, with its claim":     {want: []Rule{Leaked, Leaked}, script: newScript().store(bound).store(answering(lived("a"), bound)).mark(Settled)},
	} {
		test.check(t, name)
	}
}

func amidAtTheEnd(s *script) *script {
	return s.add(Record{Fault: &Fault{ID: 1, Kind: "kill-leader", Phase: Begin}}).add(Record{Fault: &Fault{ID: 1, Kind: "kill-leader", Phase: End}})
}

func protected(o *Object) *Object {
	kept := *o
	kept.Finalizers = []string{inUseFinalizer}
	return &kept
}

func answering(address, claim *Object) *Object {
	bound := *address
	bound.Claim = claim.Name
	return &bound
}

func planeOf(addresses ...string) *Object {
	return &Object{Kind: ControlPlane, Name: "cp", UID: "cp", Asks: []string{pool}, Addresses: addresses, Finalizers: []string{releaseFinalizer}}
}

func clusterOf(addresses ...string) *Object {
	return &Object{Kind: Cluster, Name: "cp", UID: "cluster", Asks: []string{pool}, Addresses: addresses}
}

func ofEndpoint(o *Object) *Object {
	kept := *o
	kept.Machine, kept.Endpoint = "", "cp"
	return &kept
}

func TestEndpointsAreHeldLikeTheAddressesOfMachines(t *testing.T) {
	t.Parallel()
	claim, kept := ofEndpoint(claimOf("cp")), ofEndpoint(addressOf("cp"))
	lives := func() *script {
		return newScript().store(claim).store(kept).store(planeOf(address)).store(clusterOf(address))
	}
	paused := clusterOf()
	paused.Paused = true
	for name, test := range map[string]verdict{
		"of a control plane":                     {script: lives().mark(Settled)},
		"of a machine, too":                      {want: []Rule{Shared}, script: lives().store(machineOf("a", address))},
		"of a Cluster whose VSphereCluster went": {script: lives().gone(planeOf(address)).mark(Settled)},
		"freed with the VSphereCluster": {want: []Rule{Freed}, script: lives().gone(planeOf(address)).
			gone(kept)},
		"freed when both are done": {script: lives().store(deleted(clusterOf(address), start, "cluster")).store(deleted(planeOf(address), start, releaseFinalizer)).
			gone(kept).gone(claim).gone(planeOf(address)).gone(clusterOf(address)).mark(Drained)},
		"freed while CAPV is not done": {want: []Rule{Freed}, script: lives().store(deleted(clusterOf(address), start, "cluster")).
			store(deleted(planeOf(address), start, "vspherecluster", releaseFinalizer)).gone(kept)},
		"left behind by both":         {want: []Rule{Leaked, Leaked}, script: lives().gone(planeOf(address)).gone(clusterOf(address)).store(protected(kept)).mark(Settled)},
		"not given":                   {want: []Rule{Unserved}, script: newScript().store(clusterOf()).store(planeOf()).mark(Settled)},
		"not given by a full pool":    {script: newScript().store(full()).store(clusterOf()).store(planeOf()).mark(Settled)},
		"not given under a pause":     {script: newScript().store(paused).store(planeOf()).mark(Settled)},
		"not given without a Cluster": {script: newScript().store(planeOf()).mark(Settled)},
		"refused without a reason":    {want: []Rule{Unserved}, script: newScript().op(CreateEndpoint, Refused, "IPPool is exhausted: 2 of 2")},
		"that is wedged":              {want: []Rule{Wedged}, script: newScript().store(deleted(planeOf(), start.Add(-time.Hour), "vspherecluster", releaseFinalizer)).mark(Settled)},
		"that CAPV keeps": {want: []Rule{Wedged}, script: newScript().store(clusterOf()).
			store(deleted(planeOf(), start.Add(-time.Hour), "vspherecluster")).mark(Settled)},
		"that CAPV keeps without a Cluster": {script: newScript().store(deleted(planeOf(), start.Add(-time.Hour), "vspherecluster")).mark(Settled)},
		"that nobody asked a pool for":      {script: newScript().op("pause Cluster", Refused, "IPPool is exhausted: 2 of 2")},
	} {
		test.check(t, name)
	}
}

// The pause of one Cluster excuses nothing of another's machines.
func TestPauseIsThatOfOneCluster(t *testing.T) {
	t.Parallel()
	paused := clusterOf()
	paused.Paused = true
	verdict{want: []Rule{Unserved}, script: newScript().store(paused).store(machineOf("a")).mark(Settled)}.check(t, "of another")
}

func TestMachineWithoutNameWaitsForItsOwner(t *testing.T) {
	t.Parallel()
	unnamed := machineOf("a")
	unnamed.Unnamed = true
	owned := *unnamed
	owned.Owned = true
	verdict{script: newScript().store(unnamed).mark(Settled)}.check(t, "without an owner")
	verdict{want: []Rule{Unserved}, script: newScript().store(&owned).mark(Settled)}.check(t, "with an owner")
}

// verdict is what must be found in a history.
type verdict struct {
	script *script
	want   []Rule
}

func (v verdict) check(t *testing.T, name string) {
	t.Helper()
	var got []Rule
	for _, found := range Check(v.script.records, DefaultLimits()).Violations {
		got = append(got, found.Rule)
		if len(Window(v.script.records, found)) == 0 {
			t.Errorf("%s: nothing of the history shows %v", name, found)
		}
	}
	if !sameRules(got, v.want) {
		t.Errorf("%s: found %q, want %q", name, got, v.want)
	}
}
