package history

import (
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

const (
	ns      = "arena"
	pool    = "IPPool/workers"
	address = "10.100.0.10"
)

// script writes a history by hand, a second after the other.
type script struct {
	records  []Record
	at       time.Time
	revision int64
	vm       int
	id       int
}

func newScript() *script {
	s := &script{at: start}
	s.store(&Object{Kind: Metal3Pool, Name: "workers", UID: "pool", Size: 2})
	return s
}

func (s *script) add(r Record) *script {
	r.Time = s.at
	s.records = append(s.records, r)
	return s.pass(time.Second)
}

func (s *script) pass(d time.Duration) *script {
	s.at = s.at.Add(d)
	return s
}

func (s *script) store(o *Object) *script {
	s.revision++
	stored := *o
	stored.Revision = s.revision
	if stored.Namespace == "" {
		stored.Namespace = ns
	}
	return s.add(Record{Object: &stored})
}

func (s *script) gone(o *Object) *script {
	removed := *o
	removed.Gone = true
	return s.store(&removed)
}

func (s *script) vmEvent(kind VMKind, id string, addresses ...string) *script {
	s.vm++
	return s.add(Record{VM: &VM{Sequence: s.vm, Kind: kind, ID: id, Name: id, Addresses: addresses}})
}

func (s *script) mark(m Mark) *script { return s.add(Record{Mark: m}) }

func (s *script) create(outcome Outcome, text string) *script { return s.op(Create, outcome, text) }

func (s *script) op(kind string, outcome Outcome, text string) *script {
	s.id++
	op := Op{ID: s.id, Kind: kind, Namespace: ns, Name: "b", Pools: []string{pool}, Phase: Begin}
	end := op
	end.Phase, end.Outcome, end.Text = End, outcome, text
	return s.add(Record{Op: &op}).add(Record{Op: &end})
}

func machineOf(name string, addresses ...string) *Object {
	return &Object{Kind: Machine, Name: name, UID: name, Of: "dkp", Addresses: addresses, Asks: []string{pool}, Finalizers: []string{releaseFinalizer}}
}

func vmObject(machine string, addresses ...string) *Object {
	return &Object{Kind: VirtualMachine, Name: machine, UID: machine + "-vm", Owner: machine, Addresses: addresses}
}

func addressOf(machine string) *Object {
	return &Object{Kind: Metal3Address, Name: "workers-" + address, UID: "address-" + machine, Pool: pool, Machine: machine, Addresses: []string{address}}
}

func claimOf(machine string) *Object {
	return &Object{Kind: Metal3Claim, Name: machine + "-0", UID: "claim-" + machine, Pool: pool, Machine: machine, Ours: true}
}

func deleted(o *Object, at time.Time, finalizers ...string) *Object {
	going := *o
	going.DeletedAt, going.Finalizers = &at, finalizers
	return &going
}

// TestWhatMustNotBeIsFound has, for each rule, what breaks it and what is just within it.
func TestWhatMustNotBeIsFound(t *testing.T) {
	t.Parallel()
	a, b := machineOf("a", address), machineOf("b", address)
	longAgo := start.Add(-time.Hour)
	for name, test := range map[string]struct {
		script *script
		want   []Rule
	}{
		"a machine is made, served and deleted": {script: newScript().store(claimOf("a")).store(addressOf("a")).create(Done, "").store(a).
			mark(Settled).store(deleted(a, start, releaseFinalizer)).gone(addressOf("a")).gone(claimOf("a")).gone(a).mark(Drained)},

		"two machines have an address": {want: []Rule{Shared}, script: newScript().store(addressOf("a")).store(a).store(b)},
		"two machines one after the other": {script: newScript().store(addressOf("a")).store(a).gone(a).
			store(b)},
		"the first is being deleted, and has a VM": {want: []Rule{Shared}, script: newScript().store(addressOf("a")).store(a).
			store(deleted(a, start, "vspheremachine", releaseFinalizer)).store(b)},
		"the first is being deleted, and done": {script: newScript().store(addressOf("a")).store(a).
			store(deleted(a, start, releaseFinalizer)).store(b)},
		"the first is being deleted in the foreground": {script: newScript().store(addressOf("a")).store(a).
			store(deleted(a, start, "foregroundDeletion")).store(b)},
		"the first is gone, and its VM is not": {want: []Rule{Shared}, script: newScript().store(addressOf("a")).store(a).
			store(vmObject("a", address)).gone(a).store(b)},
		"a machine and its own VM": {script: newScript().store(addressOf("a")).store(a).store(vmObject("a", address))},
		"a machine that brings along what is known for long": {want: []Rule{Shared}, script: newScript().store(addressOf("a")).store(a).
			pass(time.Minute).store(byHand(b))},
		"a machine that brings along what came just before": {script: newScript().store(addressOf("a")).store(a).store(byHand(b))},
		"an address that somebody brought along long ago": {want: []Rule{Shared}, script: newScript().store(byHand(a)).
			pass(time.Minute).store(addressOf("b")).store(b)},
		"the order is that of the revisions": {script: swapped(newScript().store(addressOf("a")).store(a).gone(a).store(b), 3, 4)},

		"two VMs have an address": {want: []Rule{Shared}, script: newScript().vmEvent(Configured, "vm-1", address).
			vmEvent(Configured, "vm-2", address)},
		"two VMs one after the other": {script: newScript().vmEvent(Configured, "vm-1", address).vmEvent(Destroyed, "vm-1").
			vmEvent(Configured, "vm-2", address)},
		"two VMs have an address in two forms": {want: []Rule{Shared}, script: newScript().vmEvent(Configured, "vm-1", "fd00::1").
			vmEvent(Configured, "vm-2", "fd00:0:0::1")},
		"a VM that is configured again": {script: newScript().vmEvent(Configured, "vm-1", address).
			vmEvent(Configured, "vm-1", address, "10.101.0.10")},
		"a VM that has another address now": {script: newScript().vmEvent(Configured, "vm-1", address).
			vmEvent(Configured, "vm-1", "10.101.0.10").vmEvent(Configured, "vm-2", address)},

		"an address goes while its machine lives": {want: []Rule{Freed}, script: newScript().store(addressOf("a")).store(a).gone(addressOf("a"))},
		"an address goes while a VSphereVM is there": {want: []Rule{Freed}, script: newScript().store(addressOf("a")).store(a).
			store(vmObject("a", address)).store(deleted(a, start, releaseFinalizer)).gone(addressOf("a"))},
		"an address goes while its VM exists": {want: []Rule{Freed}, script: newScript().store(addressOf("a")).
			vmEvent(Configured, "vm-1", address).gone(addressOf("a"))},
		"an address goes when its VM is gone": {script: newScript().store(addressOf("a")).
			vmEvent(Configured, "vm-1", address).vmEvent(Destroyed, "vm-1").gone(addressOf("a"))},
		"a machine has an address that its pool does not know of": {want: []Rule{Freed}, script: newScript().store(a)},
		"an address of which there is another object": {script: newScript().store(addressOf("a")).store(&Object{
			Kind: ContractAddress, Name: "other", UID: "other", Addresses: []string{address},
		}).store(a).gone(addressOf("a"))},

		"a claim is left":              {want: []Rule{Leaked}, script: newScript().store(claimOf("a")).mark(Settled)},
		"a claim is left for a moment": {script: newScript().store(claimOf("a")).gone(claimOf("a")).mark(Settled)},
		"the claim of a done machine is left": {want: []Rule{Leaked}, script: newScript().store(claimOf("a")).
			store(deleted(machineOf("a"), start, releaseFinalizer)).mark(Settled)},
		"an address is left": {want: []Rule{Leaked}, script: newScript().store(addressOf("a")).mark(Settled)},

		"a machine is being deleted for long": {want: []Rule{Wedged}, script: newScript().store(deleted(machineOf("a"), longAgo, releaseFinalizer)).mark(Settled)},
		"a machine is being deleted":          {script: newScript().store(deleted(machineOf("a"), start, releaseFinalizer)).mark(Settled)},
		"an address was deleted by hand, and its machine lives": {script: newScript().store(addressOf("a")).store(a).
			store(deleted(addressOf("a"), longAgo, inUseFinalizer)).mark(Settled)},
		"an address was deleted by hand, and nobody has it": {want: []Rule{Leaked, Wedged}, script: newScript().
			store(deleted(addressOf("a"), longAgo, inUseFinalizer)).mark(Settled)},
		"a machine is there after all was deleted": {want: []Rule{Wedged}, script: newScript().store(addressOf("a")).store(a).mark(Drained)},
		"a VM is there after all was deleted":      {want: []Rule{Wedged}, script: newScript().vmEvent(Configured, "vm-1", address).mark(Drained)},

		"a machine has no address":              {want: []Rule{Unserved}, script: newScript().store(machineOf("a")).mark(Settled)},
		"a machine has no address, and none is": {script: newScript().store(full()).store(machineOf("a")).mark(Settled)},
		"a machine was made while its Cluster was paused": {script: newScript().store(&Object{Kind: Cluster, Name: "dkp", Paused: true}).
			store(machineOf("a")).store(&Object{Kind: Cluster, Name: "dkp"}).mark(Settled)},
		"a machine was made right after its Cluster was paused": {script: newScript().store(&Object{Kind: Cluster, Name: "dkp", Paused: true}).
			store(&Object{Kind: Cluster, Name: "dkp"}).store(machineOf("a")).mark(Settled)},
		"a machine was made long after its Cluster was paused": {want: []Rule{Unserved}, script: newScript().
			store(&Object{Kind: Cluster, Name: "dkp", Paused: true}).store(&Object{Kind: Cluster, Name: "dkp"}).pass(time.Minute).
			store(machineOf("a")).mark(Settled)},
		"a machine with an owner was made while its Cluster was paused": {want: []Rule{Unserved}, script: newScript().
			store(&Object{Kind: Cluster, Name: "dkp", Paused: true}).store(&Object{Kind: Machine, Name: "a", UID: "a", Asks: []string{pool}, Of: "dkp", Owned: true}).mark(Settled)},
		"a deployment has too few machines":      {want: []Rule{Unserved}, script: newScript().store(deployment(1)).mark(Settled)},
		"a deployment has its machines":          {script: newScript().store(addressOf("a")).store(ofDeployment(a)).store(deployment(1)).mark(Settled)},
		"a request is told that nothing is free": {want: []Rule{Unserved}, script: newScript().create(Refused, "IPPool is exhausted: 2 of 2")},
		"a request is told so, and it is true":   {script: newScript().store(full()).create(Refused, "IPPool is exhausted: 2 of 2")},
		"a request is told so by somebody else":  {script: newScript().create(Refused, "a policy says no")},
		"others ask at the same time":            {script: othersAsk()},
		"the pool was full a while ago": {want: []Rule{Unserved}, script: newScript().store(full()).pass(time.Minute).
			store(&Object{Kind: Metal3Pool, Name: "workers", UID: "pool", Size: 2}).pass(time.Minute).create(Refused, "IPPool is exhausted: 2 of 2")},
		"something becomes free in the meantime":       {script: somethingBecomesFree()},
		"a probe fails":                                {want: []Rule{Unserved}, script: newScript().op(Probe, Failed, "no answer")},
		"a move fails":                                 {want: []Rule{Moved}, script: newScript().op(Move, Failed, "no")},
		"a move takes apart what is elsewhere by then": {script: moved(addressOf("a"), a)},
		"an address goes while something else is moved": {want: []Rule{Freed}, script: newScript().store(addressOf("a")).store(a).
			add(Record{Fault: &Fault{ID: 1, Kind: "move-cluster", Target: MovedNamespace, Phase: Begin}}).gone(addressOf("a"))},
		"an address goes after a move":             {want: []Rule{Freed}, script: moved(nil, a).gone(ofMoved(addressOf("a")))},
		"a probe fails, and its pool is not there": {script: newScript().gone(full()).pass(time.Minute).op(Probe, Failed, "no answer")},
	} {
		var got []Rule
		for _, v := range Check(test.script.records, DefaultLimits()).Violations {
			got = append(got, v.Rule)
			if len(Window(test.script.records, v)) == 0 {
				t.Errorf("%s: nothing of the history shows %v", name, v)
			}
		}
		if !sameRules(got, test.want) {
			t.Errorf("%s: found %q, want %q", name, got, test.want)
		}
	}
}

func sameRules(got, want []Rule) bool {
	count := map[Rule]int{}
	for _, rule := range got {
		count[rule]++
	}
	for _, rule := range want {
		count[rule]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func byHand(machine *Object) *Object {
	forged := *machine
	forged.ByHand = true
	return &forged
}

// full is the pool when it has no addresses at all.
func full() *Object { return &Object{Kind: Metal3Pool, Name: "workers", UID: "pool"} }

func deployment(replicas int) *Object {
	return &Object{Kind: MachineDeployment, Name: "md", UID: "md", Asks: []string{pool}, Replicas: replicas}
}

func ofDeployment(machine *Object) *Object {
	owned := *machine
	owned.Deployment = "md"
	return &owned
}

// somethingBecomesFree is when a request was under way that had looked before.
func somethingBecomesFree() *script {
	s := newScript().store(&Object{Kind: Metal3Pool, Name: "workers", UID: "pool", Size: 1}).store(addressOf("a")).pass(time.Minute)
	op := Op{ID: 1, Kind: Create, Namespace: ns, Name: "b", Pools: []string{pool}, Phase: Begin}
	end := op
	end.Phase, end.Outcome, end.Text = End, Refused, "IPPool is exhausted: 1 of 1"
	return s.add(Record{Op: &op}).pass(10 * time.Second).gone(addressOf("a")).pass(10 * time.Second).add(Record{Op: &end})
}

// othersAsk is when two more requests are under way that may have got both addresses.
func othersAsk() *script {
	s := newScript().pass(time.Minute)
	for id := range 3 {
		s.add(Record{Op: &Op{ID: id, Kind: Create, Namespace: ns, Name: "b", Pools: []string{pool}, Phase: Begin}})
	}
	for id := range 3 {
		op := Op{ID: id, Kind: Create, Namespace: ns, Name: "b", Pools: []string{pool}, Phase: End, Outcome: Done}
		if id == 0 {
			op.Outcome, op.Text = Refused, "IPPool is exhausted: 2 of 2"
		}
		s.add(Record{Op: &op})
	}
	return s
}

// moved is a move of a machine, at whose end these are gone.
func moved(objects ...*Object) *script {
	s := newScript().store(ofMoved(addressOf("a"))).store(ofMoved(machineOf("a", address)))
	fault := Fault{ID: 1, Kind: "move-cluster", Target: MovedNamespace, Phase: Begin}
	end := fault
	end.Phase = End
	s.add(Record{Fault: &fault})
	if objects[0] != nil {
		for _, o := range objects {
			s.gone(ofMoved(o))
		}
	}
	return s.add(Record{Fault: &end})
}

func ofMoved(o *Object) *Object {
	moved := *o
	moved.Namespace = MovedNamespace
	return &moved
}

// swapped has two records in the other order, as when they were seen by two watches.
func swapped(s *script, i, j int) *script {
	s.records[i], s.records[j] = s.records[j], s.records[i]
	return s
}

// A violation that two marks see is one.
func TestViolationIsReportedOnce(t *testing.T) {
	t.Parallel()
	found := Check(newScript().store(claimOf("a")).mark(Settled).mark(Settled).records, DefaultLimits()).Violations
	if len(found) != 1 {
		t.Errorf("found %v, want one", found)
	}
}

// A fault excuses that what somebody wrote by hand is not known.
func TestFaultsExcuseThatForgeriesAreNotKnown(t *testing.T) {
	t.Parallel()
	s := newScript().store(addressOf("a")).store(machineOf("a", address)).pass(time.Minute)
	s.add(Record{Fault: &Fault{ID: 1, Kind: "watches are late", Phase: Begin}})
	s.store(byHand(machineOf("b", address))).add(Record{Fault: &Fault{ID: 1, Kind: "watches are late", Phase: End}})
	if found := Check(s.records, DefaultLimits()).Violations; len(found) != 0 {
		t.Errorf("found %v, want none", found)
	}
}

func TestWindowBeginsWithWhatTheViolationBeginsWith(t *testing.T) {
	t.Parallel()
	op := func(id int, name string, phase Phase) Record {
		return Record{Op: &Op{ID: id, Kind: Create, Namespace: ns, Name: name, Phase: phase}}
	}
	s := newScript().store(machineOf("other")).store(addressOf("a"))
	s.add(op(1, "unrelated", Begin)).add(op(2, "a", Begin)).store(claimOf("a")).store(machineOf("a", address)).add(op(2, "a", End)).add(op(1, "unrelated", End))
	s.store(machineOf("unrelated")).add(Record{Fault: &Fault{ID: 1, Kind: "a kill", Phase: Begin}}).store(machineOf("b", address))
	found := Check(s.records, DefaultLimits()).Violations
	if len(found) != 1 {
		t.Fatalf("found %v, want one", found)
	}
	var text strings.Builder
	Explain(&text, s.records, found[0])
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")[1:]
	want := []string{"op 2 begin", "IPClaim arena/a-0", "VSphereMachine arena/a", "op 2 end", "a kill", "VSphereMachine arena/b"}
	if len(lines) != len(want) {
		t.Fatalf("the window is %q, want %q", lines, want)
	}
	for i, part := range want {
		if !strings.Contains(lines[i], part) {
			t.Errorf("line %d of the window is %q, want %q", i+1, lines[i], part)
		}
	}
}

func TestSummaryCounts(t *testing.T) {
	t.Parallel()
	s := newScript().create(Done, "").create(Refused, "no").op("delete", Failed, "no").
		add(Record{Fault: &Fault{ID: 1, Kind: "a kill", Phase: Begin}})
	summary := Summarize(s.records)
	if want := (Count{Name: Create, Done: 1, Refused: 1}); len(summary.Operations) != 2 || summary.Operations[0] != want {
		t.Errorf("operations are %v, want %v first", summary.Operations, want)
	}
	if len(summary.Faults) != 1 || summary.Percentile(99) != time.Second {
		t.Errorf("faults are %v, and p99 %s", summary.Faults, summary.Percentile(99))
	}
}
