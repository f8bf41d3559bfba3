package integration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/migration"
	"capv-static-ip.dev/tests/harness"
)

// overtaken is a client after whose writes somebody else acts.
type overtaken struct {
	client.Client
	after func(object client.Object)
}

// Patch implements client.Writer.
func (c *overtaken) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	err := c.Client.Patch(ctx, obj, patch, opts...)
	if err == nil && !slices.Contains(opts, client.PatchOption(client.DryRunAll)) {
		c.after(obj)
	}
	return err
}

// overtakenAt is a migration during which somebody else acts, once, when a machine is written as
// this says.
func (r *relocation) overtakenAt(is func(*capi.VSphereMachine) bool, act func()) *migration.Migration {
	r.Helper()
	once := sync.OnceFunc(act)
	return r.migration(r.pluginClient(func(c client.Client) client.Client {
		return &overtaken{Client: c, after: func(object client.Object) {
			if machine, ok := object.(*capi.VSphereMachine); ok && is(machine) {
				once()
			}
		}}
	}))
}

func isBegun(machine *capi.VSphereMachine) bool {
	return machine.Annotations[ipam.MigratingAnnotation] != ""
}

// isSwitched tells whether a machine is held by the new pool, and says that it is half way.
func (r *relocation) isSwitched(machine *capi.VSphereMachine) bool {
	bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	return err == nil && isBegun(machine) && bindings.Bindings[0].Pool == r.m.To.PoolReference
}

// One goes on with what he has read before another one came to an end.
func TestOneWhoUndoesAMigrationBesideItFreesNothingThatIsInUse(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		for name, when := range map[string]func(*relocation) func(*capi.VSphereMachine) bool{
			"when it is begun":    func(*relocation) func(*capi.VSphereMachine) bool { return isBegun },
			"when it is switched": func(r *relocation) func(*capi.VSphereMachine) bool { return r.isSwitched },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := newRelocation(t, shared, from, to, 1)
				first := r.overtakenAt(when(r), func() {
					if err := r.m.Abort(t.Context()); err != nil {
						t.Errorf("undoing it: %v", err)
					}
				})

				ended := first.Run(t.Context())

				t.Logf("the first one: %v", ended)
				if err := r.isSafe(); err != nil {
					t.Error(err)
				}
				if ended != nil {
					r.givesOthers(from)
				}
				r.finishes()
			})
		}
	})
}

// A tool applies the old pool as it was, while a machine is moved.
func TestNothingIsGivenBackToAPoolThatIsOpenAgain(t *testing.T) {
	t.Parallel()
	betweenProviders(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 1)
		before := from.Pool(r.ns)
		first := r.overtakenAt(isBegun, func() { r.applies(before) })

		if err := first.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is open for") {
			t.Errorf("got %v, want to be told that the pool is open", err)
		}

		r.givesOthers(from)
		r.finishes()
	})
}

// givesOthers sees that the old pool, which is open, gives somebody else an address that m-0 has not.
func (r *relocation) givesOthers(from harness.Fixture) {
	r.Helper()
	other := r.foreignClaim(from, "vip")
	if got := r.bind(other).IP; got == r.ip("m-0") {
		r.Errorf("somebody else was given %s, which m-0 has", got)
	}
	r.delete(other)
	r.gone(other)
}

// applies has a pool be what its manifest says.
func (r *relocation) applies(manifest client.Object) {
	r.Helper()
	stored := manifest.DeepCopyObject().(client.Object)
	r.change(stored, func() {
		annotations := stored.GetAnnotations()
		delete(annotations, clusterv1.PausedAnnotation)
		stored.SetAnnotations(annotations)
		switch pool := stored.(type) {
		case *ipamv1.IPPool:
			pool.Spec = manifest.(*ipamv1.IPPool).Spec
		case *unstructured.Unstructured:
			pool.Object["spec"] = manifest.(*unstructured.Unstructured).DeepCopy().Object["spec"]
		}
	})
}

func TestNothingIsMovedWhileItIsFrozen(t *testing.T) {
	t.Parallel()
	for name, what := range map[string]func(*relocation) client.Object{
		"the namespace": func(r *relocation) client.Object {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}}
		},
		"the old pool": func(r *relocation) client.Object { return r.from.Pool(r.ns) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelocation(t, shared, harness.OfMetal3, harness.OfInCluster, 1)
			why, frozen := because, what(r)
			first := r.overtakenAt(isBegun, func() { r.annotate(frozen, ipam.FrozenAnnotation, &why) })

			err := errors.Join(first.Run(t.Context()), r.m.Run(t.Context()))

			if err == nil || !strings.Contains(err.Error(), "is frozen") {
				t.Errorf("got %v, want to be told that it is frozen", err)
			}
			r.isHeldIn(r.from, r.from.PoolName)
			r.annotate(frozen, ipam.FrozenAnnotation, nil)
			r.finishes()
		})
	}
}

// isHeldIn sees that m-0 has a claim on a pool.
func (r *relocation) isHeldIn(f harness.Fixture, pool string) {
	r.Helper()
	for _, claim := range r.claims() {
		if harness.ProviderOf(claim).ReadClaim(claim).Pool == f.Reference(pool) && claim.GetDeletionTimestamp().IsZero() {
			return
		}
	}
	r.Errorf("nothing of %s is claimed, want that nothing is given back", pool)
}

// A pool that others keep addresses of has what it was written to for as long as that lasts.
func TestWhatPeopleExcludeAfterAMigrationStaysExcluded(t *testing.T) {
	t.Parallel()
	r := newRelocation(t, shared, harness.OfMetal3, harness.OfInCluster, 1)
	r.bind(r.foreignClaim(r.from, "vip"))
	if err := r.m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool := r.to.Pool(r.ns, harness.WithPoolName("new-pool")).(*unstructured.Unstructured)
	mine := r.from.IP(93)
	r.change(pool, func() {
		excluded, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses")
		_ = unstructured.SetNestedStringSlice(pool.Object, append(excluded, mine), "spec", "excludedAddresses")
	})

	if err := r.m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}

	r.change(pool, func() {})
	if excluded, _, _ := unstructured.NestedStringSlice(pool.Object, "spec", "excludedAddresses"); !slices.Contains(excluded, mine) {
		t.Errorf("it excludes %v, want %s among them", excluded, mine)
	}
}
