package integration

import (
	"context"
	"errors"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// metric reads the sum of a counter over all replicas.
func (s *scene) metric(name string, labels map[string]string) float64 {
	s.Helper()
	sum := 0.0
	for _, manager := range s.env.managers {
		value, err := manager.Metric(s.Context(), name, labels)
		if err != nil {
			s.Fatal(err)
		}
		sum += value
	}
	return sum
}

// everythingIsCounted needs managers that nobody else uses.
func everythingIsCounted(s *scene) {
	counters := []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"capv_static_ip_admissions_total", map[string]string{"operation": "CREATE", "outcome": "patched"}, 3},
		{"capv_static_ip_admissions_total", map[string]string{"operation": "CREATE", "outcome": "denied", "reason": "PoolExhausted"}, 1},
		{"capv_static_ip_admissions_total", map[string]string{"operation": "CREATE", "outcome": "unchanged"}, 1},
		{"capv_static_ip_admission_duration_seconds", map[string]string{"operation": "CREATE"}, 5},
		{"capv_static_ip_provider_wait_seconds", map[string]string{"pool_kind": "IPPool"}, 3},
		{"capv_static_ip_claims_made_total", nil, 3},
		{"capv_static_ip_claims_taken_back_total", nil, 0},
		{"capv_static_ip_claims_released_total", nil, 2},
		{"capv_static_ip_claims_reaped_total", nil, 1},
		{"capv_static_ip_addresses_lost_total", nil, 0},
		{"capv_static_ip_owners_touched_total", nil, 1},
	}
	before := make([]float64, len(counters))
	for i, counter := range counters {
		before[i] = s.metric(counter.name, counter.labels)
	}

	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.90")), s.pooled("cp-0"), s.pooled("cp-1"))
	s.settled("cp-0")
	s.settled("cp-1")
	s.rejectMarkedMachines()
	s.refused(s.pooled("lost", harness.WithLabel(rejectedLabel, "")), "rejected by the test")
	owner := s.machineSet("owner")
	s.waiting(owner)
	s.create(harness.Machine(s.ns, "without-pool"))
	for _, name := range []string{"cp-0", "cp-1"} {
		machine := s.machine(name)
		s.delete(machine)
		s.gone(machine)
	}
	s.within(gracePeriod+harness.Soon, "the claim without a machine to be reaped", func(context.Context) error {
		_, err := s.claim("lost")
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("it exists"))
	})

	s.touched(owner)

	for i, counter := range counters {
		if got := s.metric(counter.name, counter.labels) - before[i]; got != counter.want {
			s.Errorf("%s%v: counted %v, want %v", counter.name, counter.labels, got, counter.want)
		}
	}
}

// inClusterLife is all that the managers do about a binding of the contract.
func inClusterLife(s *scene) {
	s.inClusterPool()
	machine := s.inClusterMachine("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(machine)
	ip := s.settled("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.delete(claim)
	s.gone(claim)
	s.eventually("the dead claim to be no owner any more", func(context.Context) error { return s.isNoOwner(claim, ip) })
	s.create(s.inClusterMachine("cp-1"))
	s.settled("cp-1")
	s.refused(s.inClusterMachine("cp-2", harness.WithCluster("nobody")), "which does not exist")

	for _, name := range []string{"cp-0", "cp-1"} {
		object := s.machine(name)
		s.delete(object)
		if name == "cp-0" {
			s.dropFinalizer(object, harness.MachineFinalizer)
		}
		s.gone(object)
	}
	s.returned(ip)
	s.noClaims()
}

// nothingIsForbidden goes through all that the managers do, and then looks for
// any request of theirs that was forbidden since they were started.
func nothingIsForbidden(s *scene) {
	pool := harness.Pool(s.ns)
	machine := s.pooled("cp-0", harness.WithFinalizer(harness.MachineFinalizer))
	s.create(pool, machine, harness.Template(s.ns, "workers", harness.WithPool(harness.DefaultPool)))
	s.create(harness.Machine(s.ns, "md-0", harness.FromTemplate("workers")))
	ip := s.settled("cp-0")
	s.settled("md-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.delete(claim)
	s.eventually("the claim to come back", func(context.Context) error { return s.isRecreated("cp-0", ip, claim) })
	s.change(machine, func() {
		machine.Finalizers = []string{harness.MachineFinalizer}
		delete(machine.Annotations, ipam.BindingsAnnotation)
	})
	s.eventually("the marks to come back", func(context.Context) error { return s.isFullyAdopted("cp-0", ip) })
	s.fromAdapter("old")
	s.eventually("the old adapter's machine to be adopted", func(context.Context) error { return s.isAdopted("old", s.ip("old")) })
	s.refused(s.pooled("lost", harness.WithPool("missing")), "no IPPool and no InClusterIPPool")
	s.told("lost", string(ipam.PoolNotFound))
	s.ownersTryAgain()

	// A VM that outlives its machine, and a pool that goes with the last address.
	vm := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer))
	s.create(vm)
	s.delete(pool)
	for _, name := range []string{"cp-0", "md-0", "old"} {
		object := s.machine(name)
		s.delete(object)
		if name == "cp-0" {
			s.dropFinalizer(object, harness.MachineFinalizer)
		}
		s.gone(object)
	}
	s.told("md-0", "AddressReleased")
	s.gone(s.deleted(vm, vmFinalizer))
	s.returned(ip)
	s.gone(pool)

	leader, other := s.leader()
	if err := leader.Stop(); err != nil {
		s.Error(err)
	}
	s.eventually("the other replica to lead", func(ctx context.Context) error {
		leads, err := other.Metric(ctx, "leader_election_master_status", nil)
		if err == nil && leads != 1 {
			err = errors.New("it does not")
		}
		return err
	})
	s.expectNothingForbidden(leader, false)
	s.expectNothingForbidden(other, true)
}

// ownersTryAgain has machines refused, of an owner of each kind that is made to
// try again, until their pool appears.
func (s *scene) ownersTryAgain() {
	s.Helper()
	owners := []client.Object{s.machineSet("owner"), s.controlPlane("owner")}
	for _, owner := range owners {
		s.refused(s.pooled("late", harness.WithPool("late"), harness.WithOwner(owner)), "no IPPool and no InClusterIPPool")
		s.eventually("the refusal on the owner", func(context.Context) error {
			return s.isWaiting(owner, "IPPool.ipam.metal3.io/late,InClusterIPPool.ipam.cluster.x-k8s.io/late")
		})
	}
	s.create(harness.Pool(s.ns, harness.PoolNamed("late"), harness.PoolRange("10.16.57.1", "10.16.57.9")))
	for _, owner := range owners {
		s.touched(owner)
	}
}

// expectNothingForbidden looks into a replica's log, and its metrics if it runs.
func (s *scene) expectNothingForbidden(manager *harness.Manager, running bool) {
	s.Helper()
	log, err := os.ReadFile(manager.LogPath)
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(strings.ToLower(line), "forbidden") {
			s.Errorf("%s logged %s", manager.Name, line)
		}
	}
	if !running {
		return
	}
	requests, err := manager.Metric(s.Context(), "rest_client_requests_total", nil)
	if err != nil || requests == 0 {
		s.Errorf("%s made %v requests (error %v)", manager.Name, requests, err)
	}
	refused, err := manager.Metric(s.Context(), "rest_client_requests_total", map[string]string{"code": "403"})
	if err != nil || refused > 0 {
		s.Errorf("%s was forbidden %v requests (error %v)", manager.Name, refused, err)
	}
}
