package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kinds of operations that the checker knows.
const (
	// Create makes a machine that asks for addresses.
	Create = "create"
	// CreateEndpoint makes a VSphereCluster that asks for an endpoint.
	CreateEndpoint = "create VSphereCluster"
	// Probe is the same, when all has settled, as often as it takes: it must succeed if
	// there is room.
	Probe = "probe"
	// Move moves a Cluster with its machines to another management cluster, or back. It is
	// done if the machines have their addresses there.
	Move = "move"
	// Migrate moves the addresses of all machines of a namespace to another pool. It is done
	// if they have the same ones, and the old pool is gone.
	Migrate = "migrate"
	// Freeze freezes a namespace, or the pool that is its name, and Thaw ends that.
	Freeze = "freeze"
	Thaw   = "thaw"
)

// MovedNamespace is the one whose Cluster is moved.
const MovedNamespace = "mover"

// Kinds of faults that delete a namespace, or a pool and then its namespace. They end when
// that is gone.
const (
	DeleteNamespace = "delete-namespace"
	DeletePool      = "delete-pool"
)

// exhausted is part of what is said when a pool has no address, docs/denials.md has it.
const exhausted = "is exhausted"

// request is a create with its begin and its end.
type request struct {
	*Op
	pools    []string
	from, to time.Time
}

// requests looks at the creates that were refused: nobody must be told that a pool is
// exhausted which had room all the while, and a probe must succeed if there is room.
func (c *checker) requests() {
	all := requestsOf(c.records)
	refused := slices.DeleteFunc(slices.Clone(all), func(r request) bool { return !r.saysThatThereIsNone() })
	if len(refused) == 0 {
		return
	}
	usage := c.usage(refused)
	for i, r := range refused {
		free := usage[i]
		for _, pool := range r.pools {
			free[pool] -= c.concurrent(all, r, pool)
		}
		if slices.ContainsFunc(r.pools, func(pool string) bool { return free[pool] <= 0 }) {
			continue
		}
		c.report(fmt.Sprint(r.ID), Violation{
			Rule:  Unserved,
			Text:  fmt.Sprintf("%s of %s/%s is refused, while its pools had room, at least %v: %s", r.Kind, r.Namespace, r.Name, free, r.Text),
			Names: []string{r.Name}, From: r.from.Add(-c.limits.Delay), To: r.to.Add(c.limits.Delay),
		})
	}
}

// moves looks at whether what was moved is as it was.
func (c *checker) moves() {
	begun := map[int]time.Time{}
	for _, r := range c.records {
		switch {
		case r.Op == nil || r.Op.Kind != Move && r.Op.Kind != Migrate:
		case r.Op.Phase == Begin:
			begun[r.Op.ID] = r.Time
		case r.Op.Outcome != Done:
			c.report(fmt.Sprint(r.Op.ID), Violation{
				Rule: Moved, Text: fmt.Sprintf("to %s %s/%s failed: %s", r.Op.Kind, r.Op.Namespace, r.Op.Name, r.Op.Text),
				Names: []string{r.Op.Name}, From: begun[r.Op.ID], To: r.Time,
			})
		}
	}
}

// saysThatThereIsNone tells of a request that would have been served if its pools had room.
func (r request) saysThatThereIsNone() bool {
	if r.Kind == Probe {
		return r.Outcome != Done
	}
	return r.Outcome == Refused && strings.Contains(r.Text, exhausted)
}

func requestsOf(records []Record) []request {
	begun := map[int]Record{}
	var list []request
	for _, r := range records {
		switch {
		case r.Op == nil || len(r.Op.Pools) == 0 || !slices.Contains([]string{Create, CreateEndpoint, Probe}, r.Op.Kind):
		case r.Op.Phase == Begin:
			begun[r.Op.ID] = r
		default:
			if from, ok := begun[r.Op.ID]; ok {
				list = append(list, request{r.Op, from.Op.Pools, from.Time, r.Time})
			}
		}
	}
	return list
}

// concurrent is how many other requests might have taken an address of a pool meanwhile.
func (c *checker) concurrent(all []request, of request, pool string) int {
	count := 0
	for _, other := range all {
		meanwhile := span{other.from, other.to}.overlaps(of.from.Add(-c.limits.Delay), of.to.Add(c.limits.Delay))
		if other.ID != of.ID && other.Namespace == of.Namespace && meanwhile && slices.Contains(other.pools, pool) {
			count++
		}
	}
	return count
}

// usage is, for each request, how many addresses of each pool were free all the while, at
// the least. When a change was made is not known to the moment.
func (c *checker) usage(of []request) []map[string]int {
	free := make([]map[string]int, len(of))
	bySecond := map[int64][]int{}
	end := c.records[len(c.records)-1].Time
	for i, r := range of {
		free[i] = map[string]int{}
		for second := r.from.Unix(); second <= r.to.Unix(); second++ {
			bySecond[second] = append(bySecond[second], i)
		}
	}
	s := newState()
	for at, change := range c.changes {
		s.apply(change)
		until := end
		if at+1 < len(c.changes) {
			until = c.changes[at+1].Time
		}
		if until.Before(change.Time) {
			until = change.Time // two changes were seen in another order
		}
		for second := change.Time.Add(-c.limits.Delay).Unix(); second <= until.Add(c.limits.Delay).Unix(); second++ {
			for _, i := range bySecond[second] {
				s.least(of[i], free[i])
			}
		}
	}
	return free
}

// least lowers what was free for a request to what is free now.
func (s *state) least(r request, free map[string]int) {
	for _, pool := range r.pools {
		now := s.size(r.Namespace, pool) - s.used(r.Namespace, pool)
		if before, looked := free[pool]; !looked || now < before {
			free[pool] = now
		}
	}
}
