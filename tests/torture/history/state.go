package history

import (
	"slices"
	"strings"
	"time"
)

// key names an object. Another of the same name has the same key.
type key struct{ kind, namespace, name string }

func (o *Object) key() key { return key{o.Kind, o.Namespace, o.Name} }

// seen is an object as it is at a moment of the history.
type seen struct {
	*Object
	// since is the record by which an object of this UID came to be.
	since Record
	// paused says that its Cluster was paused when it was made, or shortly before.
	paused bool
	// cools is since when it is seen to cool down.
	cools time.Time
}

// holding is somebody who has an address: a machine, or a VSphereVM of it.
type holding struct {
	*seen
	// since is when it was seen to have the address.
	since Record
}

// who is the machine that a holding is of. A VSphereVM that nobody owns stands for itself. A
// Cluster and its VSphereCluster have the same name here, and one endpoint.
func (h holding) who() string {
	if h.isEndpoint() {
		return "control plane " + h.Namespace + "/" + h.Name
	}
	if h.Owner != "" {
		return h.Owner
	}
	return h.UID
}

// state is what is stored at a moment of the history.
type state struct {
	objects map[key]*seen
	// holdings are those who have an address.
	holdings map[string]map[key]holding
	// kept are the objects by which a provider knows that an address is not free.
	kept map[string]map[key]*seen
	// usedOf counts, for each pool of a namespace, what is not free.
	usedOf map[place]int
	// paused is when a Cluster was seen to be paused last.
	paused map[key]time.Time
}

// place is a pool, as in "IPPool/workers", of a namespace.
type place struct{ namespace, pool string }

func newState() *state {
	return &state{objects: map[key]*seen{}, holdings: map[string]map[key]holding{}, kept: map[string]map[key]*seen{}, usedOf: map[place]int{}, paused: map[key]time.Time{}}
}

// apply makes a change, and returns the addresses that it is about.
func (s *state) apply(r Record) []string {
	object := r.Object
	k := object.key()
	before := s.objects[k]
	var touched []string
	if before != nil {
		touched = before.Addresses
	}
	if object.Gone {
		delete(s.objects, k)
		s.index(before, nil, r)
		return touched
	}
	now := &seen{Object: object, since: r}
	now.paused = s.isPaused(key{Cluster, object.Namespace, object.Of}, r.Time)
	if object.Cools {
		now.cools = r.Time
	}
	if before != nil && before.UID == object.UID {
		now.since, now.paused = before.since, before.paused
		if before.Cools {
			now.cools = before.cools
		}
	}
	if object.Kind == Cluster && (object.Paused || before != nil && before.Paused) {
		s.paused[k] = r.Time
	}
	s.objects[k] = now
	s.index(before, now, r)
	return union(touched, object.Addresses)
}

// pauseKnown is how long after a Cluster is resumed it may not be known.
const pauseKnown = 30 * time.Second

// isPaused tells whether a Cluster is paused, or may be taken to be.
func (s *state) isPaused(cluster key, at time.Time) bool {
	if object := s.objects[cluster]; object != nil && object.Paused {
		return true
	}
	last, ever := s.paused[cluster]
	return ever && at.Sub(last) < pauseKnown
}

// index keeps who has which address.
func (s *state) index(before, now *seen, r Record) {
	old := map[string]holding{}
	if before != nil {
		s.usedOf[place{before.Namespace, before.Pool}] -= before.uses()
		for _, address := range before.Addresses {
			old[address] = s.holdings[address][before.key()]
			delete(s.holdings[address], before.key())
			delete(s.kept[address], before.key())
		}
	}
	if now == nil {
		return
	}
	s.usedOf[place{now.Namespace, now.Pool}] += now.uses()
	for _, address := range now.Addresses {
		if now.isAddress() {
			put(s.kept, address, now.key(), now)
			continue
		}
		since := r
		if was, had := old[address]; had && was.UID == now.UID {
			since = was.since
		}
		put(s.holdings, address, now.key(), holding{now, since})
	}
}

func put[V any](into map[string]map[key]V, address string, k key, value V) {
	if into[address] == nil {
		into[address] = map[key]V{}
	}
	into[address][k] = value
}

// holders are those who have an address, and are not done with it.
func (s *state) holders(address string) []holding {
	var list []holding
	for _, h := range s.holdings[address] {
		if !h.isDone() {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b holding) int { return int(a.since.Object.Revision - b.since.Object.Revision) })
	return list
}

// of are the objects of some kinds, in the order of their last changes.
func (s *state) of(kinds ...string) []*seen {
	var list []*seen
	for _, object := range s.objects {
		if slices.Contains(kinds, object.Kind) {
			list = append(list, object)
		}
	}
	slices.SortFunc(list, func(a, b *seen) int { return int(a.Revision - b.Revision) })
	return list
}

// living tells whether a machine of this name, or a VSphereVM, has something to hold.
func (s *state) living(namespace, name string) bool {
	machine, vm := s.objects[key{Machine, namespace, name}], s.objects[key{VirtualMachine, namespace, name}]
	return machine != nil && !machine.isDone() || vm != nil
}

// livesAtEndpoint tells whether a VSphereCluster of this name needs an endpoint, or a Cluster
// that has it.
func (s *state) livesAtEndpoint(namespace, name string) bool {
	plane, cluster := s.objects[key{ControlPlane, namespace, name}], s.objects[key{Cluster, namespace, name}]
	return plane != nil && !plane.isDone() || cluster != nil && !cluster.isDone() && len(cluster.Addresses) > 0
}

// pool is one of a namespace, nil if there is none.
func (s *state) pool(namespace, ref string) *seen {
	kind, name, _ := strings.Cut(ref, "/")
	return s.objects[key{kind, namespace, name}]
}

// used is how many addresses of a pool are not free: there is an object for them, or a
// claim that will get one.
func (s *state) used(namespace, pool string) int { return s.usedOf[place{namespace, pool}] }

// uses is what an object takes of its pool.
func (s *seen) uses() int {
	if s != nil && (s.isAddress() || s.isClaim() && s.Address == "") {
		return 1
	}
	return 0
}

// size is how many addresses a pool has; 0 if there is none, or not for long, or if it need
// not give any because they are moved.
func (s *state) size(namespace, pool string) int {
	object := s.pool(namespace, pool)
	if object == nil || object.DeletedAt != nil || object.Migrating {
		return 0
	}
	return object.Size
}

func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, text := range b {
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// span is a time with a begin and an end.
type span struct{ from, to time.Time }

func (s span) overlaps(from, to time.Time) bool { return s.from.Before(to) && from.Before(s.to) }
