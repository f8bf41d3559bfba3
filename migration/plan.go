package migration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/cluster-api/util/annotations"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
)

// State is how far a machine is.
type State string

// The states of a machine.
const (
	// Ready says that it can be moved.
	Ready State = "ready"
	// HalfWay says that it was begun.
	HalfWay State = "half-way"
	// Waiting says that the manager, or the old provider, is about to make it ready.
	Waiting State = "waiting"
	// Blocked says that it cannot be moved now.
	Blocked State = "blocked"
	// Leaving says that it is being deleted, and gives its addresses back itself.
	Leaving State = "leaving"
)

// Machine is a machine with addresses of the old pool, or one that is half way.
type Machine struct {
	Key   types.NamespacedName
	UID   types.UID
	State State
	Moves []ipam.Move
	// Writes are what will be written, in its order.
	Writes []string
	// Why says what stands in the way of one that is blocked, or waits.
	Why string

	// back are what will be written if it is half way and that is undone.
	back []string
}

// Plan is what would be done.
type Plan struct {
	Machines []Machine
	// Left are addresses of the old pool that stay there.
	Left []string
	// Edits are what has to be edited so that nothing asks for the old pool any more.
	Edits []Edit
	// Stops keep it from being done.
	Stops []string

	// unreserved keep it from being done, and not from being undone.
	unreserved []string
}

func (p *Plan) in(state State) []Machine {
	return slices.DeleteFunc(slices.Clone(p.Machines), func(m Machine) bool { return m.State != state })
}

func (p *Plan) ready() []Machine   { return p.in(Ready) }
func (p *Plan) halfWay() []Machine { return p.in(HalfWay) }
func (p *Plan) waiting() []Machine { return p.in(Waiting) }
func (p *Plan) refused() []Machine { return p.in(Blocked) }

// Plan reads the cluster and plans. It writes nothing.
func (m *Migration) Plan(ctx context.Context) (*Plan, error) {
	p, err := m.survey(ctx)
	if err == nil {
		p.Stops = append(p.Stops, p.unreserved...)
	}
	return p, err
}

// survey is Plan but for what an undoing does not mind.
func (m *Migration) survey(ctx context.Context) (*Plan, error) {
	graph, err := m.Source.ReadWhole(ctx)
	if err != nil {
		return nil, err
	}
	p, err := m.plan(graph)
	if err != nil || len(p.Stops) > 0 {
		return p, err
	}
	freeze, err := m.frozenNamespace(ctx, m.From.Namespace)
	if err != nil {
		return nil, err
	}
	if freeze != nil {
		return &Plan{Stops: []string{fmt.Sprintf("%s: wait until that is over", freeze)}}, nil
	}
	if len(p.ready()) == 0 {
		return p, nil
	}
	if why := m.mayWrite(ctx, p.ready()[0]); why != "" {
		p.Stops = append(p.Stops, why)
	}
	return p, nil
}

// plan is Plan of what was read.
func (m *Migration) plan(graph *inventory.Graph) (*Plan, error) {
	from, to := graph.Pool(m.From), graph.Pool(m.To)
	p := &Plan{Stops: m.stops(graph, from, to)}
	if len(p.Stops) > 0 {
		return p, nil
	}
	target, err := m.targetOf(to)
	if err != nil {
		return nil, err
	}
	names := namesOf(graph)
	for _, machine := range graph.Machines {
		if planned, is := m.planMachine(graph, machine, target, names); is {
			p.Machines = append(p.Machines, planned)
		}
	}
	if why := m.reversed(graph); why != "" && len(p.halfWay()) == 0 {
		return &Plan{Stops: []string{why}}, nil
	}
	slices.SortFunc(p.Machines, func(a, b Machine) int { return compareKeys(a.Key, b.Key) })
	p.Left = staying(graph, from)
	p.Edits = m.edits(graph, from, to)
	p.unreserved = m.unreserved(from, to)
	return p, nil
}

// staying are the addresses of the old pool that no machine has.
func staying(graph *inventory.Graph, from *inventory.Pool) []string {
	var left []string
	for _, h := range graph.Holdings(from) {
		if machine := graph.Machine(h.NamespacedName); machine != nil && h.Kind == machineKind && h.State == inventory.Used {
			continue
		}
		left = append(left, fmt.Sprintf("%s: %s, %s %s", h.IP, h.State, h.Kind, h.NamespacedName))
	}
	return left
}

// target is the new pool, and which of its addresses can be placed.
type target struct {
	*inventory.Pool
	bits     int
	gateways []string
	// contains tells which are in its ranges, and gives which it would hand out.
	contains, gives func(netip.Addr) bool
	// heldBy are the claims that have addresses of it.
	heldBy map[netip.Addr]types.NamespacedName
}

func (m *Migration) targetOf(pool *inventory.Pool) (*target, error) {
	plain, err := ipam.WithoutMigration(pool.Provider, pool.Object)
	if err != nil {
		return nil, err
	}
	all, reserved, ok := ipam.Ranges(pool.Provider, plain)
	details := ipam.DetailsOf(pool.Provider, plain)
	t := &target{Pool: pool, bits: details.Bits, gateways: details.Gateways, heldBy: map[netip.Addr]types.NamespacedName{}}
	t.contains = func(ip netip.Addr) bool { return ok && all.Contains(ip) }
	t.gives = func(ip netip.Addr) bool { return t.contains(ip) && !reserved.Contains(ip) }
	for _, a := range pool.Addresses {
		t.heldBy[a.IP] = types.NamespacedName{Namespace: a.GetNamespace(), Name: a.Claim}
	}
	return t, nil
}

// leftOf is the claim by which a machine has an address of the new pool already: somebody was at
// work for it while another one undid that.
func (t *target) leftOf(machine *inventory.Machine, ip netip.Addr) (claim string, ok bool) {
	holder, isHeld := t.heldBy[ip]
	isBinding := slices.ContainsFunc(machine.Bindings, func(b ipam.Binding) bool { return b.Pool == t.PoolReference && b.Claim == holder.Name })
	if !isHeld || holder.Namespace != machine.Namespace || isBinding {
		return "", false
	}
	return holder.Name, slices.ContainsFunc(t.Claims, func(c ipam.Claim) bool {
		return c.GetNamespace() == holder.Namespace && c.GetName() == holder.Name && c.GetDeletionTimestamp().IsZero() && capi.OwnerMachine(c).UID == machine.UID
	})
}

// names are those of claims and addresses that exist, by the claim API that they are of.
type names map[string]map[types.NamespacedName]bool

func namesOf(graph *inventory.Graph) names {
	n := names{}
	note := func(api string, object client.Object) {
		if n[api] == nil {
			n[api] = map[types.NamespacedName]bool{}
		}
		n[api][client.ObjectKeyFromObject(object)] = true
	}
	for _, pool := range graph.Pools {
		for _, claim := range pool.Claims {
			note(pool.Provider.Name(), claim)
		}
		for _, address := range pool.Addresses {
			note(pool.Provider.Name(), address)
		}
	}
	return n
}

// free is the first name for a claim of a machine that nothing has.
func (n names) free(api string, machine types.NamespacedName, slot ipam.Slot) string {
	for try := 1; ; try++ {
		name := ipam.ClaimNameOfTry(machine.Name, slot, try)
		if !n[api][types.NamespacedName{Namespace: machine.Namespace, Name: name}] {
			return name
		}
	}
}

// planMachine plans a machine, false if the old pool has nothing of it.
func (m *Migration) planMachine(graph *inventory.Graph, machine *inventory.Machine, to *target, names names) (Machine, bool) {
	planned := Machine{Key: client.ObjectKeyFromObject(machine), UID: machine.UID, State: Ready}
	if migration, ok := ipam.MigrationOf(machine); ok {
		return m.planBegun(planned, machine, migration)
	}
	for _, b := range machine.Bindings {
		if !m.isOf(m.From, machine.Namespace, b.Pool) {
			continue
		}
		name, isLeft := to.leftOf(machine, b.Address.Addr())
		if !isLeft {
			name = names.free(to.Provider.Name(), planned.Key, b.Slot())
		}
		planned.Moves = append(planned.Moves, ipam.Move{
			Address: b.Address.Addr(), From: b.ClaimReference(), To: ipam.ClaimReference{Pool: m.To.PoolReference, Claim: name},
		})
	}
	if len(planned.Moves) == 0 {
		return Machine{}, false
	}
	if !machine.DeletionTimestamp.IsZero() {
		planned.State = Leaving
		return planned, true
	}
	planned.State, planned.Why = m.judge(graph, machine, planned.Moves, to)
	planned.Writes = writesOf(planned.Moves)
	return planned, true
}

// planBegun plans a machine that says that it is being moved.
func (m *Migration) planBegun(planned Machine, machine *inventory.Machine, migration ipam.Migration) (Machine, bool) {
	planned.Moves, planned.State = migration.Moves, HalfWay
	isOurs := slices.ContainsFunc(migration.Moves, func(move ipam.Move) bool {
		return m.isOf(m.From, machine.Namespace, move.From.Pool) && m.isOf(m.To, machine.Namespace, move.To.Pool)
	})
	switch {
	case isOurs && !machine.DeletionTimestamp.IsZero():
		planned.State = Leaving
	case isOurs:
		planned.Writes, planned.back = writesOf(planned.Moves), backOf(planned.Moves, machine.Bindings)
	case slices.ContainsFunc(machine.Bindings, func(b ipam.Binding) bool { return m.isOf(m.From, machine.Namespace, b.Pool) }):
		planned.State = Blocked
		planned.Why = "it is being moved to another pool: finish that, or undo it with --abort"
	default:
		return Machine{}, false
	}
	return planned, true
}

func writesOf(moves []ipam.Move) []string {
	writes := make([]string, 0, len(moves))
	for _, move := range moves {
		writes = append(writes, fmt.Sprintf("%s to claim %s of %s %s", move.Address, move.To.Claim, move.To.Pool.Kind, move.To.Pool.Name))
	}
	return writes
}

// isOf tells whether a reference in a namespace is to a pool.
func (m *Migration) isOf(key inventory.PoolKey, namespace string, ref ipam.PoolReference) bool {
	return ref == key.PoolReference && (key.Namespace == "" || key.Namespace == namespace)
}

// judge tells whether a machine can be moved now, and why not.
func (m *Migration) judge(graph *inventory.Graph, machine *inventory.Machine, moves []ipam.Move, to *target) (State, string) {
	if why := obstacle(graph, machine, to); why != "" {
		return Blocked, why
	}
	held := make([]side, len(moves))
	for i, move := range moves {
		if held[i] = m.oldSide(graph, machine, move); held[i].isAwaited(move) {
			return Waiting, fmt.Sprintf("%s is its own, and claim %s is not bound yet: the manager, or the IPAM provider, is about to do that", move.Address, move.From.Claim)
		}
	}
	for i, move := range moves {
		if why := m.obstacleOf(machine, move, held[i], to); why != "" {
			return Blocked, why
		}
	}
	return Ready, ""
}

// obstacle says why a machine cannot be moved now whatever its addresses are, empty if it can.
func obstacle(graph *inventory.Graph, machine *inventory.Machine, to *target) string {
	_, isMoving := machine.Annotations[clusterctlv1.DeleteForMoveAnnotation]
	switch cluster := graph.ClusterOf(machine); {
	case isMoving:
		return "clusterctl is moving it: wait until that is over"
	case to.Namespace != "" && to.Namespace != machine.Namespace:
		return fmt.Sprintf("it is in another namespace than %s", to.PoolKey)
	case cluster == nil && machine.Labels[clusterv1.ClusterNameLabel] != "":
		return fmt.Sprintf("its Cluster %s does not exist: the IPAM provider binds nothing for it", machine.Labels[clusterv1.ClusterNameLabel])
	case cluster != nil && (cluster.IsPaused() || annotations.HasPaused(cluster)):
		return fmt.Sprintf("its Cluster %s is paused: resume it", cluster.Name)
	}
	return ""
}

// obstacleOf says why one address of a machine cannot be moved, empty if it can.
func (m *Migration) obstacleOf(machine *inventory.Machine, move ipam.Move, held side, to *target) string {
	ip := move.Address
	binding := machine.Bindings[slices.IndexFunc(machine.Bindings, func(b ipam.Binding) bool { return b.ClaimReference() == move.From })]
	holder, isHeld := to.heldBy[ip]
	isOnDevice := slices.ContainsFunc(machine.Addresses(), placeOf(ip))
	switch {
	case !isOnDevice:
		return fmt.Sprintf("no device of it has %s: replace it", ip)
	case held.isOthers(machine):
		return fmt.Sprintf("claim %s is not its own: see kubectl static-ip explain vspheremachine/%s", move.From.Claim, machine.Name)
	case !held.isMachines(move):
		return fmt.Sprintf("%s is not wholly bound to it: see kubectl static-ip explain vspheremachine/%s", ip, machine.Name)
	case !to.contains(ip):
		return fmt.Sprintf("%s is not in the ranges of %s: add it there", ip, to.PoolKey)
	case !to.gives(ip):
		return fmt.Sprintf("%s hands %s out to nobody: it is excluded, reserved or needed by the network there", to.PoolKey, ip)
	case isHeld && holder != (types.NamespacedName{Namespace: machine.Namespace, Name: move.To.Claim}):
		return fmt.Sprintf("%s has given %s to claim %s: release that", to.PoolKey, ip, holder)
	case to.bits != 0 && to.bits != binding.Address.Bits():
		return fmt.Sprintf("%s has prefix length %d, and %s has %d on the device: correct the pool", to.PoolKey, to.bits, ip, binding.Address.Bits())
	}
	return m.refusal(machine, binding, to)
}

// refusal says why the new pool is not for the machine, by its own word. Which failure domain
// the machine is in is not known here.
func (m *Migration) refusal(machine *inventory.Machine, binding ipam.Binding, to *target) string {
	object := to.Object.DeepCopyObject().(client.Object)
	stated := object.GetAnnotations()
	delete(stated, ipam.FailureDomainsAnnotation)
	object.SetAnnotations(stated)
	identity := ipam.Machine{NamespacedName: client.ObjectKeyFromObject(machine), Cluster: machine.Labels[clusterv1.ClusterNameLabel]}
	want := ipam.Want{Pool: to.PoolReference, Ask: ipam.Ask{Device: binding.Device, AskedBy: "the migration"}}
	if err := ipam.CheckStatement(ipam.Pool{Object: object, Reference: to.PoolReference}, identity, want); err != nil {
		return err.Error()
	}
	return ""
}

// oldSide is the end of a move in the old pool.
func (m *Migration) oldSide(graph *inventory.Graph, machine *inventory.Machine, move ipam.Move) side {
	from := graph.Pool(m.From)
	s := side{}
	for i := range from.Claims {
		if c := &from.Claims[i]; c.GetNamespace() == machine.Namespace && c.GetName() == move.From.Claim {
			s.claim = c
		}
	}
	for i := range from.Addresses {
		if a := &from.Addresses[i]; a.GetNamespace() == machine.Namespace && a.Claim == move.From.Claim && a.IP == move.Address {
			s.address = &a.Address
		}
	}
	return s
}
