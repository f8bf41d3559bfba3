package inventory

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// after is so many seconds after noon.
func after(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// readScene is what is read of a scene.
func readScene(t *testing.T, s *scene) *Graph {
	t.Helper()
	graph, err := s.source(t).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// aRead is from when to when something was read, and what.
type aRead struct {
	began, ended float64
	graph        *Graph
}

func TestSecondLookMayBeALaterRead(t *testing.T) {
	fine := readScene(t, newScene())
	s := newScene()
	s.more = []client.Object{unbound("lb", "10.0.0.6")}
	wrong := readScene(t, s)
	for name, test := range map[string]struct {
		reads        []aRead
		sure, unsure int
	}{
		"one look":              {reads: []aRead{{0, 1, wrong}}, unsure: 1},
		"too soon":              {reads: []aRead{{0, 1, wrong}, {2.9, 4, wrong}}, unsure: 1},
		"late enough":           {reads: []aRead{{0, 1, wrong}, {3, 4, wrong}}, sure: 1},
		"two that are too soon": {reads: []aRead{{0, 1, wrong}, {2, 2.5, wrong}, {3, 4, wrong}}, sure: 1},
		"fine in between":       {reads: []aRead{{0, 1, wrong}, {2, 2.5, fine}, {3, 4, wrong}}, unsure: 1},
		"fine at last":          {reads: []aRead{{0, 1, wrong}, {3, 4, wrong}, {5, 6, fine}}},
	} {
		t.Run(name, func(t *testing.T) {
			lookout := Lookout{Limits: limits, Pause: SecondLook}
			var report *Report
			var unsure int
			for _, read := range test.reads {
				report, unsure = lookout.Look(read.graph, after(read.began), after(read.ended))
			}
			if len(report.Findings) != test.sure || unsure != test.unsure {
				t.Errorf("%d are sure and %d are not, want %d and %d", len(report.Findings), unsure, test.sure, test.unsure)
			}
		})
	}
}

func TestSettledFindingNeedsNoSecondLook(t *testing.T) {
	s := newScene()
	s.pool.Spec.ClusterName = nil
	lookout := Lookout{Limits: limits, Pause: SecondLook}
	report, unsure := lookout.Look(readScene(t, s), after(0), after(1))
	if len(report.Findings) != 1 || report.Findings[0].Check != StaysBehind || unsure != 0 {
		t.Errorf("got %+v, and %d that are not sure", report.Findings, unsure)
	}
}

func TestFindingsSayWhichAddressesAndPoolsTheyAreAbout(t *testing.T) {
	for name, test := range map[string]struct {
		arrange   func(*scene)
		check     CheckID
		addresses []string
		pools     []string
	}{
		"an address on two":    {func(s *scene) { s.more = []client.Object{unbound("lb", "10.0.0.2")} }, AddressTwice, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"an endpoint on one":   {func(s *scene) { s.more = s.endpoint("10.0.0.2") }, AddressTwice, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"pools that overlap":   {func(s *scene) { s.more = []client.Object{s.anotherPool("10.0.0.7", "10.0.0.9")} }, PoolsOverlap, nil, []string{"ns/IPPool/pool", "ns/IPPool/another"}},
		"outside":              {func(s *scene) { *s.pool.Spec.Pools[0].Start = "10.0.0.3" }, OutsideItsPool, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"a claim of nobody":    {func(s *scene) { s.gone = []client.Object{s.machine, s.vm} }, ClaimOfNobody, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"an address of nobody": {func(s *scene) { s.gone = []client.Object{s.machine, s.vm, s.claim} }, ProtectedNobody, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"a machine without":    {func(s *scene) { s.gone = []client.Object{s.address} }, NotBound, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"a VM without":         {func(s *scene) { s.gone = []client.Object{s.machine, s.claim, s.address} }, NotBound, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
		"an endpoint without":  {func(s *scene) { s.more = s.endpoint("10.9.0.5")[:0] }, NotBound, []string{"10.9.0.5"}, []string{"ns/IPPool/pool"}},
		"a gateway":            {func(s *scene) { *s.pool.Spec.Gateway = "10.0.0.7" }, PoolGivesNeeded, []string{"10.0.0.7"}, []string{"ns/IPPool/pool"}},
		"refused for nothing":  {func(s *scene) { s.more = []client.Object{refused(time.Hour)} }, RefusedForNothing, nil, []string{"ns/IPPool/pool"}},
		"given up":             {func(s *scene) { s.more = []client.Object{failed(metav1.NewTime(noon.Add(-time.Hour)))} }, ClaimFailed, nil, []string{"ns/IPPool/pool"}},
		"by hand":              {func(s *scene) { s.more = []client.Object{unbound("lb", "10.0.0.6")} }, ByHandInPool, []string{"10.0.0.6"}, []string{"ns/IPPool/pool"}},
		"a guest of its own":   {func(s *scene) { s.vm.Status.Addresses = []string{"10.0.0.5"} }, GuestDisagrees, []string{"10.0.0.2"}, []string{"ns/IPPool/pool"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			test.arrange(s)
			findings, _ := readScene(t, s).Findings(limits, test.check)
			if len(findings) == 0 {
				t.Fatal("nothing is found")
			}
			var addresses, pools []string
			for _, ip := range findings[0].Addresses {
				addresses = append(addresses, ip.String())
			}
			for _, key := range findings[0].Pools {
				pools = append(pools, key.String())
			}
			if !slices.Equal(addresses, test.addresses) || !slices.Equal(pools, test.pools) {
				t.Errorf("%s is about %q and %q, want %q and %q", findings[0].Text, addresses, pools, test.addresses, test.pools)
			}
		})
	}
}

func TestEveryCheckMeansSomething(t *testing.T) {
	for _, id := range CheckIDs() {
		if id.Means() == "" {
			t.Errorf("%s says not what it finds", id)
		}
	}
}
