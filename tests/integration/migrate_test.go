package integration

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/migration"
	"capv-static-ip.dev/tests/harness"
)

// relocation is a scene with machines of one pool, and another pool with the same addresses.
type relocation struct {
	*scene
	from, to harness.Fixture
	m        *migration.Migration
	// devices are those of the machines before, as they are stored.
	devices map[string][]capvv1.NetworkDeviceSpec
}

// directions are all that addresses can be moved in.
var directions = []direction{
	{harness.OfMetal3, harness.OfInCluster}, {harness.OfInCluster, harness.OfMetal3},
	{harness.OfMetal3, harness.OfMetal3}, {harness.OfInCluster, harness.OfInCluster},
}

// direction is one of them.
type direction struct{ from, to harness.Fixture }

// isWithin tells whether both pools are of one provider.
func (d direction) isWithin() bool { return d.from.Name == d.to.Name }

// inEachDirection runs a test for pools of all kinds, side by side.
func inEachDirection(t *testing.T, test func(t *testing.T, from, to harness.Fixture)) {
	t.Helper()
	inDirections(t, directions, test)
}

// betweenProviders is inEachDirection but for those within a provider, which the heavy tests
// have.
func betweenProviders(t *testing.T, test func(t *testing.T, from, to harness.Fixture)) {
	t.Helper()
	inDirections(t, slices.DeleteFunc(slices.Clone(directions), direction.isWithin), test)
}

func inDirections(t *testing.T, some []direction, test func(t *testing.T, from, to harness.Fixture)) {
	t.Helper()
	for _, d := range some {
		t.Run(d.from.Name+" to "+d.to.Name, func(t *testing.T) {
			t.Parallel()
			test(t, d.from, d.to)
		})
	}
}

// newRelocation has this many machines in a pool of one provider, and one of another with the
// same ranges. It ends with a look at the invariants, as every scene.
func newRelocation(t *testing.T, env *environment, from, to harness.Fixture, machines int) *relocation {
	t.Helper()
	r := relocationIn(newScene(t, env), from, to)
	for i := range machines {
		r.adds(fmt.Sprintf("m-%d", i))
	}
	return r
}

// relocationIn has both pools in a scene, and no machine yet.
func relocationIn(s *scene, from, to harness.Fixture) *relocation {
	s.Helper()
	r := &relocation{scene: s, from: from, to: to, devices: map[string][]capvv1.NetworkDeviceSpec{}}
	r.pool(from)
	r.create(to.Pool(r.ns, harness.WithPoolName("new-pool"), harness.WithRange(from.IP(88), from.IP(93)), harness.WithGateway(from.IP(1))))
	r.m = r.migration(r.pluginClient(nil))
	return r
}

// adds makes a machine of the old pool, and waits until it holds its address.
func (r *relocation) adds(name string) {
	r.Helper()
	r.create(r.asks(r.from, name))
	r.settled(name)
	r.devices[name] = r.machine(name).Spec.Network.Devices
}

// pluginClient reads and writes as the plugin does, but for what a test has come in between.
func (r *relocation) pluginClient(wrap func(client.Client) client.Client) client.Client {
	r.Helper()
	config := rest.CopyConfig(r.env.Config)
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		r.Fatal(err)
	}
	mapper, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	if err != nil {
		r.Fatal(err)
	}
	scheme, err := harness.ProductScheme(mapper)
	if err != nil {
		r.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme, Mapper: mapper, HTTPClient: httpClient})
	if err != nil {
		r.Fatal(err)
	}
	if wrap != nil {
		return wrap(c)
	}
	return c
}

func (r *relocation) migration(c client.Client) *migration.Migration {
	key := func(f harness.Fixture, name string) inventory.PoolKey {
		return inventory.PoolKey{Namespace: r.ns, PoolReference: f.Reference(name)}
	}
	return &migration.Migration{
		Client: c, From: key(r.from, r.from.PoolName), To: key(r.to, "new-pool"), Parallel: 1, Timeout: harness.Soon,
		Source: inventory.Source{
			Client: c, Reader: c, Namespace: r.ns, WithWorkloads: true, Now: time.Now,
			Providers: ipam.NewProviders(contract.Provider{Mapper: c.RESTMapper(), Live: c}, metal3.Provider{}),
		},
		Report: r.Logf,
	}
}

// isSafe returns an error if an invariant does not hold, or a device has changed.
func (r *relocation) isSafe() error {
	errs := harness.CheckInvariants(r.Context(), r.env.Client, harness.InvariantOptions{Namespaces: []string{r.ns}, GracePeriod: gracePeriod})
	for name, want := range r.devices {
		if got := r.machine(name).Spec.Network.Devices; !reflect.DeepEqual(got, want) {
			errs = append(errs, fmt.Errorf("machine %s has devices %+v, want %+v", name, got, want))
		}
	}
	return errors.Join(errs...)
}

// heldBy returns an error unless each machine holds its address by a claim of this pool, and by
// no other.
func (r *relocation) heldBy(pool inventory.PoolKey) error {
	addresses := r.addresses()
	for name := range r.devices {
		machine := r.machine(name)
		if _, migrating := machine.Annotations[ipam.MigratingAnnotation]; migrating {
			return fmt.Errorf("machine %s is half way", name)
		}
		bindings, err := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
		if err != nil {
			return err
		}
		if len(bindings.Bindings) != 1 || bindings.Bindings[0].Pool != pool.PoolReference {
			return fmt.Errorf("machine %s has the bindings %+v, want one of %s", name, bindings.Bindings, pool)
		}
		address, err := addressAmong(addresses, bindings.Bindings[0].Address.Addr().String())
		if err != nil {
			return err
		}
		if got := harness.ProviderOf(address).ReadAddress(address).Pool; got != pool.PoolReference || !ipam.IsProtected(address) {
			return fmt.Errorf("%s is of %s, with finalizers %v", address.GetName(), got, address.GetFinalizers())
		}
	}
	if claims := r.claims(); len(claims) != len(r.devices) {
		return fmt.Errorf("there are the claims %v, want one for each machine", names(claims))
	}
	return nil
}

// next makes a machine, which gets an address that nobody has.
func (r *relocation) next(machine *capvv1.VSphereMachine, held ...string) {
	r.Helper()
	for name := range r.devices {
		held = append(held, r.ip(name))
	}
	r.create(machine)
	got := r.ip(machine.Name)
	if slices.Contains(held, got) {
		r.Errorf("the next machine got %s, which is held", got)
	}
	free := []string{}
	for last := 88; last <= 93; last++ {
		free = append(free, r.from.IP(last))
	}
	if !slices.Contains(free, got) {
		r.Errorf("the next machine got %s, want one of %v", got, free)
	}
	r.devices[machine.Name] = r.machine(machine.Name).Spec.Network.Devices
}

// goes deletes all machines, and sees that their addresses come back.
func (r *relocation) goes() {
	r.Helper()
	for name := range r.devices {
		machine := r.machine(name)
		r.delete(machine)
		r.gone(machine)
		delete(r.devices, name)
	}
	r.noClaims()
}

func TestMachinesKeepTheirAddressesInAnotherPool(t *testing.T) {
	t.Parallel()
	inEachDirection(t, func(t *testing.T, from, to harness.Fixture) {
		r := newRelocation(t, shared, from, to, 3)

		if err := r.m.Run(t.Context()); err != nil {
			t.Fatal(err)
		}

		if err := r.isSafe(); err != nil {
			t.Error(err)
		}
		r.eventually("all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
		r.consistently("nothing is written back", func(context.Context) error { return r.heldBy(r.m.To) })
		// Nothing that has moved is handed out by the old pool, and the next machine gets
		// another address of the new one.
		r.refused(r.asks(from, "late"), "exhausted")
		r.next(harness.Machine(r.ns, "next", to.Ask("new-pool")))
		r.goes()
	})
}

// killed is what a client returns that was killed.
var errKilled = errors.New("the program was killed")

// mortal is a client that is killed after so many writes, and then neither reads nor writes.
type mortal struct {
	client.Client
	left atomic.Int64
	// lost says that the last write is made, and its answer is lost.
	writes atomic.Int64
}

func (c *mortal) write(do func() error) error {
	if c.left.Load() <= 0 {
		return errKilled
	}
	err := do()
	c.writes.Add(1)
	if c.left.Add(-1) == 0 {
		return errKilled
	}
	return err
}

func (c *mortal) read(do func() error) error {
	if c.left.Load() <= 0 {
		return errKilled
	}
	return do()
}

// Get implements client.Reader.
func (c *mortal) Get(ctx context.Context, key types.NamespacedName, obj client.Object, opts ...client.GetOption) error {
	return c.read(func() error { return c.Client.Get(ctx, key, obj, opts...) })
}

// List implements client.Reader.
func (c *mortal) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.read(func() error { return c.Client.List(ctx, list, opts...) })
}

// Create implements client.Writer.
func (c *mortal) Create(ctx context.Context, obj client.Object, opts ...client.CreateOption) error {
	return c.write(func() error { return c.Client.Create(ctx, obj, opts...) })
}

// Delete implements client.Writer.
func (c *mortal) Delete(ctx context.Context, obj client.Object, opts ...client.DeleteOption) error {
	return c.write(func() error { return c.Client.Delete(ctx, obj, opts...) })
}

// Patch implements client.Writer. A dry run writes nothing.
func (c *mortal) Patch(ctx context.Context, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
	if slices.Contains(opts, client.PatchOption(client.DryRunAll)) {
		return c.read(func() error { return c.Client.Patch(ctx, obj, patch, opts...) })
	}
	return c.write(func() error { return c.Client.Patch(ctx, obj, patch, opts...) })
}

// diesAfter runs what a migration does with a client that is killed after so many writes, and
// tells whether it was.
func (r *relocation) diesAfter(writes int64, run func(*migration.Migration, context.Context) error) bool {
	r.Helper()
	dying := &mortal{}
	dying.left.Store(writes)
	m := r.migration(r.pluginClient(func(c client.Client) client.Client { dying.Client = c; return dying }))
	m.Report = func(string, ...any) {}
	err := run(m, r.Context())
	if err != nil && !errors.Is(err, errKilled) {
		r.Fatalf("killed after %d writes: %v", writes, err)
	}
	return err != nil
}

// Whenever it is killed, what is there is safe, and running it again finishes it.
func TestMigrationThatIsKilledAfterAnyWriteIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	betweenProviders(t, finishedWheneverKilled)
}

func finishedWheneverKilled(t *testing.T, from, to harness.Fixture) {
	r := newRelocation(t, shared, from, to, 1)
	// Each run is killed at its first write, so that all writes are the last of one of them.
	runs := 0
	for r.diesAfter(1, (*migration.Migration).Run) {
		if err := r.isSafe(); err != nil {
			t.Fatalf("after %d writes: %v", runs+1, err)
		}
		if runs++; runs > 100 {
			t.Fatal("it does not come to an end")
		}
	}
	t.Logf("killed %d times", runs)
	r.eventually("all machines to be held by the new pool alone", func(context.Context) error { return r.heldBy(r.m.To) })
	r.goes()
}
