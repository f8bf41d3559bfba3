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

// cost is what a step in the life of a common machine makes the manager ask of
// the API server, past its caches, and how often.
type cost map[string]int

func (c cost) String() string {
	var lines []string
	for _, request := range slices.Sorted(maps.Keys(c)) {
		lines = append(lines, fmt.Sprintf("\n\t%d %s", c[request], request))
	}
	return strings.Join(lines, "")
}

// life is what one machine costs. That a number grows is a change of the design:
// it is paid for every machine. How often a release reads depends on which event
// comes first, so its numbers are the most there can be.
// Of claims is what others write to the claim until it is bound and adopted.
type life struct{ create, claim, adopt, release cost }

var (
	metal3Costs = life{
		create: cost{
			"create ipclaims.ipam.metal3.io":   1,
			"patch ipaddresses.ipam.metal3.io": 1,
			// metal3 may have given the address to a claim of its other API, too.
			"get ipaddresses.ipam.cluster.x-k8s.io": 1,
		},
		claim: cost{"patch ipclaims.ipam.metal3.io/status": 1},
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
	}
	inClusterCosts = life{
		create: cost{
			"create ipaddressclaims.ipam.cluster.x-k8s.io": 1,
			"patch ipaddresses.ipam.cluster.x-k8s.io":      1,
		},
		// The status is sometimes written twice.
		claim: cost{"patch ipaddressclaims.ipam.cluster.x-k8s.io/status": 2},
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
	}
)

func TestCostOfACommonMachine(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{AuditLog: true}, 1)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("with an address of metal3", func(t *testing.T) {
		s := newScene(t, env)
		s.create(harness.Pool(s.ns))
		s.costs(metal3Costs, func(name string) client.Object {
			return s.pooled(name, harness.WithFinalizer(harness.MachineFinalizer))
		})
	})
	t.Run("with an in-cluster address", func(t *testing.T) {
		s := newScene(t, env)
		s.inClusterPool()
		s.costs(inClusterCosts, func(name string) client.Object {
			return s.inClusterMachine(name, harness.WithFinalizer(harness.MachineFinalizer))
		})
	})
}

// costs lets a machine live, and compares what each step of it costs.
func (s *scene) costs(want life, machine func(name string) client.Object) {
	s.Helper()
	// What the first of a kind costs, nobody pays again.
	s.create(machine("first"))
	s.untilQuiet()
	object := machine("cp-0")

	begin := time.Now()
	s.create(object)
	created := time.Now()
	s.expectCost("create", s.spent(begin, created), want.create)

	s.untilQuiet()
	s.expectCost("adopt", s.spent(created, time.Now()), want.adopt)
	s.expectCostAtMost("the provider's part", s.spentOnClaims(begin), want.claim)

	begin = time.Now()
	s.delete(object)
	s.dropFinalizer(object, harness.MachineFinalizer)
	s.gone(object)
	s.untilQuiet()
	s.expectCostAtMost("release", s.spent(begin, time.Now()), want.release)
}

func (s *scene) expectCost(step string, got, want cost) {
	s.Helper()
	s.Logf("%s costs:%s", step, got)
	if !maps.Equal(got, want) {
		s.Errorf("%s costs:%s\nwant:%s", step, got, want)
	}
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

// spentOnClaims is what others than the manager wrote to the namespace's claims.
func (s *scene) spentOnClaims(after time.Time) cost {
	s.Helper()
	all, err := s.env.AuditLog("", after)
	if err != nil {
		s.Fatal(err)
	}
	spent := cost{}
	for _, request := range all {
		isClaim := strings.HasSuffix(request.Object.Resource, "claims") && request.Object.Namespace == s.ns
		if isClaim && request.User.Username != s.env.Identity().User && !slices.Contains([]string{"get", "list", "watch"}, request.Verb) {
			spent[request.String()]++
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
