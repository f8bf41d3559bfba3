package integration

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// quiet is how long the manager must have asked for nothing until a step counts
// as done: longer than it lets changes settle before it acts on them.
const quiet = 2500 * time.Millisecond

// cost is what a step in the life of a common machine makes somebody ask of
// the API server, past its caches, and how often.
type cost map[string]int

func (c cost) String() string {
	var lines []string
	for _, request := range slices.Sorted(maps.Keys(c)) {
		lines = append(lines, fmt.Sprintf("\n\t%d %s", c[request], request))
	}
	return strings.Join(lines, "")
}

// writes are those of what was asked for that change something.
func (c cost) writes() cost {
	writes := maps.Clone(c)
	maps.DeleteFunc(writes, func(request string, _ int) bool { return isRead(request) })
	return writes
}

func (c cost) sum() int {
	sum := 0
	for _, count := range c {
		sum += count
	}
	return sum
}

func isRead(request string) bool {
	verb, _, _ := strings.Cut(request, " ")
	return slices.Contains([]string{"get", "list", "watch"}, verb)
}

// life is what one machine costs. That a number grows is a change of the design:
// it is paid for every machine. How often a step reads depends on which event
// comes first, so its reads are the most there can be.
type life struct {
	// create, adopt and release are what the manager asks for.
	create, adopt, release cost
	// bound and freed are what others write: until the machine has adopted its claim, and
	// from its deletion until the address is free. Who writes comes first.
	bound, freed cost
}

var (
	metal3Costs = life{
		create: cost{
			"create ipclaims.ipam.metal3.io":   1,
			"patch ipaddresses.ipam.metal3.io": 1,
			// metal3 may have given the address to a claim of its other API, too.
			"get ipaddresses.ipam.cluster.x-k8s.io": 1,
		},
		adopt: cost{
			"get vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			"patch ipclaims.ipam.metal3.io":                       1,
			"patch ipaddresses.ipam.metal3.io":                    1,
			"create events.events.k8s.io":                         1,
		},
		release: cost{
			"get vspheremachines.infrastructure.cluster.x-k8s.io":   3,
			"list vspherevms.infrastructure.cluster.x-k8s.io":       1,
			"get ipaddresses.ipam.metal3.io":                        2,
			"patch ipaddresses.ipam.metal3.io":                      1,
			"patch ipclaims.ipam.metal3.io":                         1,
			"delete ipclaims.ipam.metal3.io":                        1,
			"patch vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			"create events.events.k8s.io":                           1,
		},
		bound: cost{
			byUser + "create vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			byProvider + "create ipaddresses.ipam.metal3.io":                  1,
			byProvider + "patch ipclaims.ipam.metal3.io/status":               1,
			byProvider + "patch ippools.ipam.metal3.io/status":                2,
		},
		freed: cost{
			byUser + "delete vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			byUser + "patch vspheremachines.infrastructure.cluster.x-k8s.io":  1,
			byProvider + "update ipaddresses.ipam.metal3.io":                  1,
			byProvider + "delete ipaddresses.ipam.metal3.io":                  1,
			byProvider + "update ipclaims.ipam.metal3.io":                     1,
			byProvider + "patch ippools.ipam.metal3.io/status":                2,
		},
	}
	takenCosts = life{
		create: cost{
			"create ipaddresses.ipam.metal3.io":     1,
			"get ippools.ipam.metal3.io":            1,
			"get ipaddresses.ipam.cluster.x-k8s.io": 1,
			// Another machine may have had the address lately.
			"get ipaddresses.ipam.metal3.io": 1,
		},
		adopt: cost{
			"get vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			"get ipclaims.ipam.metal3.io":                         1,
			"create ipclaims.ipam.metal3.io":                      1,
			"patch ipaddresses.ipam.metal3.io":                    1,
			"create events.events.k8s.io":                         1,
		},
		release: metal3Costs.release,
		bound: cost{
			byUser + "create vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			byProvider + "patch ipclaims.ipam.metal3.io/status":               1,
			byProvider + "patch ippools.ipam.metal3.io/status":                2,
		},
		freed: metal3Costs.freed,
	}
	inClusterCosts = life{
		create: cost{
			"create ipaddressclaims.ipam.cluster.x-k8s.io": 1,
			"patch ipaddresses.ipam.cluster.x-k8s.io":      1,
		},
		adopt: cost{
			"get vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			"patch ipaddressclaims.ipam.cluster.x-k8s.io":         1,
			"patch ipaddresses.ipam.cluster.x-k8s.io":             1,
			"create events.events.k8s.io":                         1,
		},
		release: cost{
			"get vspheremachines.infrastructure.cluster.x-k8s.io":   3,
			"list vspherevms.infrastructure.cluster.x-k8s.io":       1,
			"get ipaddresses.ipam.cluster.x-k8s.io":                 2,
			"patch ipaddresses.ipam.cluster.x-k8s.io":               1,
			"delete ipaddressclaims.ipam.cluster.x-k8s.io":          1,
			"patch vspheremachines.infrastructure.cluster.x-k8s.io": 1,
			"create events.events.k8s.io":                           1,
		},
		bound: cost{
			byUser + "create vspheremachines.infrastructure.cluster.x-k8s.io":  1,
			byProvider + "create ipaddresses.ipam.cluster.x-k8s.io":            1,
			byProvider + "patch ipaddressclaims.ipam.cluster.x-k8s.io/status":  2,
			byProvider + "patch inclusterippools.ipam.cluster.x-k8s.io/status": 2,
		},
		freed: cost{
			byUser + "delete vspheremachines.infrastructure.cluster.x-k8s.io":  1,
			byUser + "patch vspheremachines.infrastructure.cluster.x-k8s.io":   1,
			byProvider + "patch ipaddresses.ipam.cluster.x-k8s.io":             1,
			byProvider + "delete ipaddresses.ipam.cluster.x-k8s.io":            1,
			byProvider + "patch ipaddressclaims.ipam.cluster.x-k8s.io":         1,
			byProvider + "patch inclusterippools.ipam.cluster.x-k8s.io/status": 2,
		},
	}
)

// Who writes, but for the manager.
const (
	byUser     = "user: "
	byProvider = "provider: "
)

func TestCostOfACommonMachine(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{AuditLog: true, ControllerAccounts: true}, 0)
	inCluster, err := env.StartInCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	managed(t, env, byClaim)
	t.Run("with an address of metal3", func(t *testing.T) {
		s := newScene(t, env)
		s.create(harness.Pool(s.ns))
		s.costs(env.metal3.Provider, metal3Costs, func(name string) client.Object {
			return s.pooled(name, harness.WithFinalizer(harness.MachineFinalizer))
		})
	})
	t.Run("with an in-cluster address", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool()
		s.costs(inCluster.Provider, inClusterCosts, func(name string) client.Object {
			return s.inClusterMachine(name, harness.WithFinalizer(harness.MachineFinalizer))
		})
	})
	if err := env.managers[0].Stop(); err != nil {
		t.Fatal(err)
	}
	managed(t, env, byAddress)
	t.Run("with an address that is taken from a pool of metal3", func(t *testing.T) {
		s := newScene(t, env)
		s.takingPool()
		s.costs(env.metal3.Provider, takenCosts, func(name string) client.Object {
			return s.pooled(name, harness.WithFinalizer(harness.MachineFinalizer))
		})
	})
}

// managed has one manager run, with an argument.
func managed(t *testing.T, env *environment, arg string) {
	t.Helper()
	manager, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod, Args: []string{arg}})
	if err != nil {
		t.Fatal(err)
	}
	env.managers = []*harness.Manager{manager}
}

// costs lets a machine live, and compares what each step of it costs.
func (s *scene) costs(provider *harness.Provider, want life, machine func(name string) client.Object) {
	s.Helper()
	// What the first of a kind costs, nobody pays again.
	s.create(machine("first"))
	s.untilQuiet()
	object := machine("cp-0")

	begin := time.Now()
	s.create(object)
	created := time.Now()
	create := s.spent(begin, created)
	s.expectCostAtMost("create", create, want.create)
	s.expectWrites("create", create.writes(), want.create.writes())
	s.untilQuiet()
	adopted := time.Now()
	adopt := s.spent(created, adopted)
	s.expectCostAtMost("adopt", adopt, want.adopt)
	s.expectWrites("adopt", adopt.writes(), want.adopt.writes())
	bound := s.spentByOthers(provider, begin, adopted)
	s.expectWrites("what others do until it is adopted", bound, want.bound)

	begin = time.Now()
	s.delete(object)
	s.dropFinalizer(object, harness.MachineFinalizer)
	s.gone(object)
	s.untilQuiet()
	freed := time.Now()
	release := s.spent(begin, freed)
	s.expectCostAtMost("release", release, want.release)
	s.expectWrites("release", release.writes(), want.release.writes())
	others := s.spentByOthers(provider, begin, freed)
	s.expectWrites("what others do until it is free", others, want.freed)

	s.Logf("writes of one machine: %d by us and %d by others until it is adopted, %d and %d when it goes",
		create.writes().sum()+adopt.writes().sum(), bound.sum(), release.writes().sum(), others.sum())
}

func (s *scene) expectCostAtMost(step string, got, want cost) {
	s.Helper()
	s.Logf("%s costs:%s", step, got)
	for request, count := range got {
		if count > want[request] {
			s.Errorf("%s costs %d %s, want %d at most", step, count, request, want[request])
		}
	}
}

// expectWrites compares what was written. A provider writes a status as often as it looks
// before it sees its last write, so these numbers are the most there can be.
func (s *scene) expectWrites(step string, got, want cost) {
	s.Helper()
	s.Logf("%s:%s", step, got)
	all := maps.Clone(want)
	maps.Copy(all, got)
	for request := range all {
		isOften := strings.HasPrefix(request, byProvider) && strings.HasSuffix(request, "/status")
		if got[request] > want[request] || got[request] < want[request] && !isOften {
			s.Errorf("%s: %d %s, want %d", step, got[request], request, want[request])
		}
	}
}

// spent is what the manager asked for and was answered in a span of time.
func (s *scene) spent(from, to time.Time) cost {
	s.Helper()
	spent := cost{}
	for _, request := range s.requests(from) {
		if request.Answered.Time.Before(to) {
			spent[request.String()]++
		}
	}
	return spent
}

// spentByOthers is what others than the manager wrote into the namespace in a span of time.
func (s *scene) spentByOthers(provider *harness.Provider, from, to time.Time) cost {
	s.Helper()
	all, err := s.env.AuditLog("", from)
	if err != nil {
		s.Fatal(err)
	}
	spent := cost{}
	for _, request := range all {
		isDone := request.Response.Code < http.StatusBadRequest && request.Answered.Time.Before(to)
		if request.Object.Namespace != s.ns || !isDone || isRead(request.Verb) {
			continue
		}
		switch user := request.User.Username; user {
		case s.env.Identity().User:
		case provider.User:
			spent[byProvider+request.String()]++
		case harness.AdminUser:
			spent[byUser+request.String()]++
		default:
			spent[user+": "+request.String()]++
		}
	}
	return spent
}

// untilQuiet waits until the manager has done everything that there is to do.
func (s *scene) untilQuiet() {
	s.Helper()
	s.eventually("the manager to come to rest", func(context.Context) error {
		since := time.Now().Add(-quiet)
		if busy := s.requests(since); len(busy) > 0 {
			return fmt.Errorf("it has asked to %s", &busy[len(busy)-1])
		}
		return nil
	})
}

// requests are those of the manager that were answered after a moment, but for
// its watches, for conflicts, which a busy provider makes more or fewer of, and for
// the question whether the API server answers, which it asks all the time.
func (s *scene) requests(after time.Time) []harness.Audited {
	s.Helper()
	all, err := s.env.AuditLog(s.env.Identity().User, after)
	if err != nil {
		s.Fatal(err)
	}
	return slices.DeleteFunc(all, func(request harness.Audited) bool {
		return request.Verb == "watch" || request.Response.Code == http.StatusConflict || strings.HasPrefix(request.URI, "/version")
	})
}
