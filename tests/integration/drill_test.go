package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// drilled are the machines of the drill of docs/restore.md.
var drilled = []string{"cp-0", "md-0", "md-1", "md-2"}

// drill is a Cluster with some machines that run, and a backup of it.
type drill struct {
	f   harness.Fixture
	ips map[string]string
	// saved are in the order in which Velero restores.
	saved []*unstructured.Unstructured
}

// backedUp makes the Cluster in a namespace of its own, which stands for the management
// cluster that is lost.
func backedUp(t *testing.T, f harness.Fixture) drill {
	t.Helper()
	s, d := newScene(t, shared), drill{f: f, ips: map[string]string{}}
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	s.create(f.Pool(s.ns, f.WithIPs(88, 99)), cluster)
	for _, name := range drilled {
		s.create(s.asks(f, name))
		d.ips[name] = s.settled(name)
		machine := s.machine(name)
		s.change(machine, func() { machine.Spec.ProviderID = "vsphere://" + name })
		s.create(harness.VSphereVM(machine))
	}
	d.add(s, s.claims()...)
	d.add(s, s.addresses()...)
	d.add(s, f.Pool(s.ns))
	for _, name := range drilled {
		d.add(s, harness.Machine(s.ns, name), &capvv1.VSphereVM{ObjectMeta: s.machine(name).ObjectMeta})
	}
	d.add(s, cluster)
	harness.InRestoreOrder(d.saved)
	return d
}

func (d *drill) add(s *scene, objects ...client.Object) {
	s.Helper()
	for _, object := range objects {
		d.saved = append(d.saved, s.backup(object, object.GetName()))
	}
}

// isOfIPAM tells whether an object is a claim or an address.
func isOfIPAM(object *unstructured.Unstructured) bool {
	return slices.Contains([]string{"IPClaim", "IPAddressClaim", "IPAddress"}, object.GetKind())
}

// without leaves out of a backup what matches.
func (d drill) without(matches leavesOut) drill {
	var kept []*unstructured.Unstructured
	for i, object := range d.saved {
		if !matches(i, object) {
			kept = append(kept, object)
		}
	}
	d.saved = kept
	return d
}

// frozenTarget is a namespace that is frozen before anything is in it, which stands for the
// management cluster that comes after.
func (d drill) frozenTarget(t *testing.T) (s *scene, mark client.Object) {
	t.Helper()
	s, by := newScene(t, shared), byMark["namespace"]
	mark = by.mark(s, d.f)
	s.freeze(d.f, mark, by.what(d.f))
	return s, mark
}

// isWhole returns an error unless these machines have what is theirs.
func (d drill) isWhole(s *scene, machines ...string) error {
	for _, name := range machines {
		ip := d.ips[name]
		if err := s.isFullyAdopted(name, ip); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if got := s.ip(name); got != ip {
			return fmt.Errorf("%s has %s, want %s", name, got, ip)
		}
	}
	return s.heldOnce()
}

// errorsOfAudit are the checks that kubectl static-ip audit finds errors by.
func (s *scene) errorsOfAudit() []string {
	s.Helper()
	stdout, stderr, _ := s.plugin("audit")
	var found []string
	for line := range strings.Lines(stdout) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "error" {
			found = append(found, fields[1]+" "+line)
		}
	}
	if !strings.Contains(stdout, "SIP-019") {
		s.Errorf("the audit does not say that it is frozen: %s%s", stdout, stderr)
	}
	return found
}

// leavesOut tells which objects of a backup are not restored, by their places too.
type leavesOut func(i int, object *unstructured.Unstructured) bool

func TestClusterIsWholeAfterTheDrill(t *testing.T) {
	drillEach(t, map[string]leavesOut{
		"without claims and addresses":          func(_ int, object *unstructured.Unstructured) bool { return isOfIPAM(object) },
		"with the claims and addresses of half": func(i int, object *unstructured.Unstructured) bool { return isOfIPAM(object) && i%2 == 0 },
	})
}

// drillEach goes through docs/restore.md for each of these.
func drillEach(t *testing.T, backups map[string]leavesOut) {
	t.Helper()
	for name, leftOut := range backups {
		t.Run(name, func(t *testing.T) {
			harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) { drilling(t, f, leftOut) })
		})
	}
}

// drilling goes through it once.
func drilling(t *testing.T, f harness.Fixture, leftOut leavesOut) {
	t.Helper()
	d := backedUp(t, f).without(leftOut)
	s, mark := d.frozenTarget(t)

	s.restore(d.saved...)
	s.refused(s.asks(f, "too-early"), "is frozen")

	s.within(2*recreateTime, "all to be whole while it is frozen", func(context.Context) error { return d.isWhole(s, drilled...) })
	s.within(2*harness.Soon, "the audit to be clean", func(context.Context) error {
		if found := s.errorsOfAudit(); len(found) > 0 {
			return fmt.Errorf("it finds %q", found)
		}
		return nil
	})
	s.thaw(mark)
	s.eventually("a machine to be made", func(ctx context.Context) error { return s.env.Client.Create(ctx, s.asks(f, "next")) })
	s.settled("next")
	if err := d.isWhole(s, drilled...); err != nil {
		t.Error(err)
	}
	s.expectClaims(len(drilled) + 1)
}

// The lost cluster came back after somebody had begun anew with the same pool.
func TestAddressThatWasHandedOutMeanwhileIsFoundByTheAuditAndComesBack(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		d := backedUp(t, f).without(func(_ int, object *unstructured.Unstructured) bool {
			return isOfIPAM(object) || strings.HasSuffix(object.GetKind(), "Pool")
		})
		s := newScene(t, shared)
		taken := d.ips["md-0"]
		last := strings.TrimPrefix(taken, strings.TrimSuffix(f.IP(0), "0"))
		var number int
		if _, err := fmt.Sscan(last, &number); err != nil {
			t.Fatal(err)
		}
		pool := f.Pool(s.ns, f.WithIPs(number, number))
		s.create(pool, harness.Cluster(s.ns, "other"), s.asks(f, "meanwhile", harness.WithCluster("other")))
		if got := s.settled("meanwhile"); got != taken {
			t.Fatalf("it has %s, want %s", got, taken)
		}
		s.change(pool, func() { f.WithIPs(88, 99)(pool) })
		mark := byMark["namespace"].mark(s, f)
		s.freeze(f, mark, byMark["namespace"].what(f))

		s.restore(d.saved...)

		others := slices.DeleteFunc(slices.Clone(drilled), func(name string) bool { return name == "md-0" })
		s.within(2*recreateTime, "all others to be whole while it is frozen", func(context.Context) error { return d.isWhole(s, others...) })
		s.within(2*harness.Soon, "the audit to find the one", func(context.Context) error {
			found := s.errorsOfAudit()
			isOfIt := func(finding string) bool { return strings.Contains(finding, taken) }
			if len(found) == 0 || slices.ContainsFunc(found, func(finding string) bool { return !isOfIt(finding) }) {
				return fmt.Errorf("it finds %q", found)
			}
			return nil
		})

		// CAPV finds the machine of the VM. Somebody decides, and ends the freeze.
		s.ownVM("md-0")
		meanwhile := s.machine("meanwhile")
		s.delete(meanwhile)
		s.told("meanwhile", "ReleaseFrozen")
		s.thaw(mark)
		s.gone(meanwhile)
		s.within(2*recreateTime, "the machine to have its address", func(context.Context) error { return d.isWhole(s, drilled...) })
	})
}

// ownVM has the machine of this name own its VM, as CAPV does when it first looks at it.
func (s *scene) ownVM(name string) {
	s.Helper()
	owned := harness.VSphereVM(s.machine(name))
	vm := &capvv1.VSphereVM{}
	vm.Namespace, vm.Name = owned.Namespace, owned.Name
	s.change(vm, func() { vm.OwnerReferences = owned.OwnerReferences })
}
