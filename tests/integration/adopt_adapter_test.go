package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/tests/harness"
)

// comeOver is a control plane on which the static IP adapter has served, and on which
// kubectl static-ip adopt-adapter is run.
type comeOver struct {
	*scene
	adapter *harness.Adapter
	// before is what each machine was, and each claim and address that the adapter's
	// machines have, when the adapter had served them.
	before map[string]string
}

// One control plane, on which the adapter serves first, then nobody, and then we.
func TestComingOverFromTheAdapter(t *testing.T) {
	t.Parallel()
	c := newComeOver(t)

	t.Run("the plan says what is adopted, what waits and what has to be changed, and writes nothing", func(t *testing.T) { c.in(t).plans() })
	t.Run("the adapter is not stopped as long as machines would wait for ever", func(t *testing.T) { c.in(t).refusesToBegin() })
	t.Run("the adapter is stopped before anything else, and then we are missed", func(t *testing.T) { c.in(t).stopsTheAdapter() })
	t.Run("everything is adopted, however often it is killed", func(t *testing.T) { c.in(t).adopts() })
	t.Run("nothing of a machine that the adapter has served is another", func(t *testing.T) { c.in(t).expectUnchanged() })
	t.Run("only the adapter is gone", func(t *testing.T) { c.in(t).expectOnlyTheAdapterGone() })
	t.Run("once more, there is nothing to do", func(t *testing.T) {
		c.in(t).start("adopt-adapter", "--yes", "--timeout=1m").ends(0, "The adapter is gone.")
	})
	t.Run("what it has made goes with whom it was made for", func(t *testing.T) { c.in(t).expectCollected() })
}

func (c *comeOver) in(t *testing.T) *comeOver {
	in := *c
	in.scene = &scene{T: t, env: c.env, ns: c.ns}
	return &in
}

// Machines of newComeOver, and their addresses.
const (
	servedMachine = "md-served"
	pausedMachine = "md-paused"
	caughtMachine = "md-caught"
	lateMachine   = "md-late"
	newMachine    = "md-new"

	servedIP, pausedIP, endpointIP, caughtIP = "10.16.56.88", "10.16.56.89", "10.16.56.90", "10.16.56.91"
)

// newComeOver is what there is in the life of the adapter: a machine that it has served, one
// whose Cluster is paused since, one that has a claim and no address yet; an endpoint that it
// has written, and one that it has not; and a template that names no pool.
func newComeOver(t *testing.T) *comeOver {
	t.Helper()
	env := ownEnvironment(t, harness.Options{WholeStack: true}, 0)
	c := &comeOver{scene: newScene(t, env), adapter: &harness.Adapter{Client: env.Client}, before: map[string]string{}}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "capv-static-ip-metrics-reader"}}
	c.delete(role)
	if err := errors.Join(env.RemoveWebhook(t.Context()), c.adapter.Install(t.Context()), c.adapter.Renew(t.Context(), time.Minute)); err != nil {
		t.Fatal(err)
	}
	template := harness.Template(c.ns, "md", harness.WithPool(harness.DefaultPool))
	bare := harness.Template(c.ns, "bare")
	pausedCluster := harness.Cluster(c.ns, "paused")
	c.create(harness.Cluster(c.ns, harness.DefaultCluster), pausedCluster, harness.Pool(c.ns, harness.PoolRange(servedIP, "10.16.56.99")), template, bare,
		harness.MachineDeployment(c.ns, "md", template.Name, "1"), harness.MachineDeployment(c.ns, "bare", bare.Name, "1"))

	c.machineOf(servedMachine, template)
	c.isGiven(servedMachine, servedIP)
	c.machineOf(pausedMachine, template, harness.WithCluster("paused"))
	c.isGiven(pausedMachine, pausedIP)
	c.change(pausedCluster, func() { pausedCluster.Spec.Paused = new(true) })
	for _, name := range []string{servedMachine, pausedMachine} {
		machine := c.machine(name)
		c.change(machine, func() { harness.WithProviderID("vsphere://" + name)(machine) })
		c.note(name)
	}
	c.endpointOfAdapter("prod")
	c.claimedAs("prod", endpointIP, c.adapter.Round)
	c.round(c.adapter.Round)
	c.expectEndpoint("prod", endpointIP, 6443)
	prod := harness.Cluster(c.ns, "prod")
	c.change(prod, func() { harness.WithEndpoint(endpointIP, 6443)(prod) })

	c.machineOf(caughtMachine, template)
	c.claimedAs(ipam.ClaimName(caughtMachine, ipam.Slot{}), caughtIP, c.adapter.ServeMachines)
	c.endpointOfAdapter("half")
	c.claimedAs("half", "10.16.56.92", c.adapter.ServeClusters)
	return c
}

// machineOf is a machine as Cluster API and CAPV have it a second after it was made.
func (c *comeOver) machineOf(name string, template *capvv1.VSphereMachineTemplate, options ...harness.Option) {
	c.Helper()
	options = append([]harness.Option{harness.WithOwner(c.capiMachine(name)), harness.WithFinalizer(harness.MachineFinalizer)}, options...)
	c.create(harness.Clone(template, name, options...))
}

// endpointOfAdapter is a VSphereCluster that waits for its endpoint.
func (c *comeOver) endpointOfAdapter(name string) {
	c.Helper()
	cluster := harness.Cluster(c.ns, name)
	c.create(cluster)
	c.create(harness.VSphereCluster(c.ns, name, harness.WithPool(harness.DefaultPool), harness.WithOwner(cluster)))
}

// round has the adapter look once at those of a kind, or at all.
func (c *comeOver) round(serve func(context.Context) error) {
	c.Helper()
	if err := serve(c.Context()); err != nil {
		c.Fatal(err)
	}
}

// claimedAs has the adapter make the claim that is missing, and waits until it has an address.
func (c *comeOver) claimedAs(name, ip string, serve func(context.Context) error) {
	c.Helper()
	c.round(serve)
	c.boundTo(harness.Claim(c.ns, name, harness.DefaultPool), ip)
}

// isGiven has the adapter serve a machine.
func (c *comeOver) isGiven(name, ip string) {
	c.Helper()
	c.claimedAs(ipam.ClaimName(name, ipam.Slot{}), ip, c.adapter.ServeMachines)
	c.round(c.adapter.ServeMachines)
	if got := harness.Addresses(c.machine(name)); !slices.Equal(got, []string{ip + "/24"}) {
		c.Fatalf("the adapter has given %s %v, want %s", name, got, ip)
	}
}

// note notes what a machine is, and who its claim and its address are.
func (c *comeOver) note(name string) {
	c.Helper()
	c.before[name] = c.known(name)
}

// known is what stands on the machine, and the UIDs of its claim and its address: if they are
// the same later, they were there all the time.
func (c *comeOver) known(name string) string {
	c.Helper()
	machine := c.machine(name)
	spec, err := json.Marshal(machine.Spec)
	if err != nil {
		c.Fatal(err)
	}
	claim, err := c.claim(name)
	if err != nil {
		c.Fatal(err)
	}
	ip, _, _ := strings.Cut(harness.Addresses(machine)[0], "/")
	address, err := c.address(ip)
	if err != nil {
		c.Fatal(err)
	}
	return fmt.Sprintf("%s\n%s %v\n%s %v", spec, claim.GetUID(), claim.GetDeletionTimestamp(), address.GetUID(), address.GetDeletionTimestamp())
}

// versions are those of everything that the command could write.
func (c *comeOver) versions() map[string]string {
	c.Helper()
	versions := map[string]string{}
	for _, list := range []client.ObjectList{
		&ipamv1.IPClaimList{}, &ipamv1.IPAddressList{}, &capvv1.VSphereMachineList{}, &capvv1.VSphereClusterList{}, &appsv1.DeploymentList{}, &rbacv1.ClusterRoleList{},
	} {
		if err := c.env.Client.List(c.Context(), list); err != nil {
			c.Fatal(err)
		}
		objects, err := meta.ExtractList(list)
		if err != nil {
			c.Fatal(err)
		}
		for _, each := range objects {
			object := each.(client.Object)
			versions[fmt.Sprintf("%T %s/%s", object, object.GetNamespace(), object.GetName())] = object.GetResourceVersion()
		}
	}
	return versions
}

func (c *comeOver) plans() {
	before := c.versions()
	c.golden("adopt-adapter", 1, "adopt-adapter")
	stdout, _, _ := c.plugin("adopt-adapter", "-o", "json")
	steps := v1alpha1.List[v1alpha1.Step]{}
	if err := json.Unmarshal([]byte(stdout), &steps); err != nil {
		c.Fatalf("%v:\n%s", err, stdout)
	}
	if len(steps.Items) != 7 || steps.Items[3].Metadata.Name != "adopt" || len(steps.Items[3].Objects) != 4 {
		c.Errorf("got the steps %+v", steps.Items)
	}
	if after := c.versions(); fmt.Sprint(before) != fmt.Sprint(after) {
		c.Errorf("the plan has changed\n%v\nto\n%v", before, after)
	}
}

func (c *comeOver) refusesToBegin() {
	before := c.versions()
	c.start("adopt-adapter", "--yes").ends(1, "some would wait for ever without the adapter", "nothing was changed")
	c.start("adopt-adapter", "--yes", "--dry-run").ends(2, "[dry-run yes] were all set")
	template := harness.Template(c.ns, "bare")
	c.change(template, func() { harness.WithPool(harness.DefaultPool)(template) })
	c.start("adopt-adapter", "--dry-run").ends(0, "Nothing was changed: say --yes to do it.")
	c.start("adopt-adapter", "--yes", "--adapter=there").ends(2, "is not NAMESPACE/NAME")
	c.start("adopt-adapter", "--yes", "--as", "nobody-in-particular").ends(3, "forbidden")
	if after := c.versions(); fmt.Sprint(before) != fmt.Sprint(after) {
		c.Errorf("commands that did not begin have changed\n%v\nto\n%v", before, after)
	}
}

// theAdapterIs is an error unless the adapter's Deployment wants so many Pods.
func (c *comeOver) theAdapterIs(replicas int32) error {
	deployment := &appsv1.Deployment{}
	key := types.NamespacedName{Namespace: harness.AdapterNamespace, Name: harness.AdapterDeployment}
	if err := c.env.Client.Get(c.Context(), key, deployment); err != nil {
		return err
	}
	if *deployment.Spec.Replicas != replicas {
		return fmt.Errorf("the adapter has %d replicas, want %d", *deployment.Spec.Replicas, replicas)
	}
	return nil
}

func (c *comeOver) stopsTheAdapter() {
	if err := c.theAdapterIs(1); err != nil {
		c.Error(err)
	}
	// The adapter may run elsewhere than in its Pod.
	c.start("adopt-adapter", "--yes", "--timeout=1m").killed("waiting for 1: Lease")
	if err := errors.Join(c.theAdapterIs(0), c.adapter.Renew(c.Context(), time.Second)); err != nil {
		c.Fatal(err)
	}
	c.start("adopt-adapter", "--yes", "--timeout=1m").ends(1, "capv-static-ip is not installed",
		"kubectl -n capv-system scale deployment/capv-static-ip-controller-manager --replicas=1")

	// Nobody serves it.
	c.machineOf(lateMachine, harness.Template(c.ns, "md"))
	c.expectUnchanged()
}

func (c *comeOver) adopts() {
	if err := c.env.Apply(c.Context()); err != nil {
		c.Fatal(err)
	}
	c.start("adopt-adapter", "--yes", "--timeout=1m").killed("step 3 of 7 is done")
	c.start("adopt-adapter", "--yes", "--timeout=2s").ends(1, "there still are", "10.16.56.88 of VSphereMachine "+servedMachine, "kubectl static-ip check")
	for range 2 {
		manager, err := c.env.StartManager(context.WithoutCancel(c.Context()), harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
		if err != nil {
			c.Fatal(err)
		}
		c.env.managers = append(c.env.managers, manager)
	}
	c.servesBesideTheAdapters()
	for _, step := range []string{"step 4 of 7 is done", "step 5 of 7 is done"} {
		c.start("adopt-adapter", "--yes", "--timeout=1m").killed(step)
	}
	c.start("adopt-adapter", "--yes", "--keep-adapter", "--timeout=1m").ends(0, "step 6 of 6 is done", "can be deleted")
	if err := c.theAdapterIs(0); err != nil {
		c.Error(err)
	}
	c.start("adopt-adapter", "--yes", "--timeout=1m").ends(0, "step 7 of 7 is done", "The adapter is gone.")

	if err := c.isFullyAdopted(servedMachine, servedIP); err != nil {
		c.Error(err)
	}
	if got := c.ip(caughtMachine); got != caughtIP {
		c.Errorf("the machine that had a claim of the adapter has %s, want the address of that, %s", got, caughtIP)
	}
	for _, name := range []string{caughtMachine, lateMachine, newMachine} {
		if err := c.isFullyAdopted(name, c.ip(name)); err != nil {
			c.Error(err)
		}
	}
	if host := c.vsphereCluster("half").Spec.ControlPlaneEndpoint.Host; host == "" {
		c.Error("the endpoint that the adapter had not written is not given")
	}
	c.expectEndpoint("prod", endpointIP, 6443)
}

// servesBesideTheAdapters makes a machine while claims of the adapter are not adopted: it is given
// an address that none of them has, be it claimed or taken.
func (c *comeOver) servesBesideTheAdapters() {
	c.Helper()
	c.create(harness.Clone(harness.Template(c.ns, "md"), newMachine))
	if ip := c.ip(newMachine); slices.Contains([]string{servedIP, pausedIP, endpointIP, caughtIP}, ip) {
		c.Errorf("a new machine is given %s, which the adapter has claimed", ip)
	}
}

// expectUnchanged checks that what the adapter has served is as it was.
func (c *comeOver) expectUnchanged() {
	c.Helper()
	for name, before := range c.before {
		if after := c.known(name); after != before {
			c.Errorf("machine %s was\n%s\nand is\n%s", name, before, after)
		}
	}
}

func (c *comeOver) expectOnlyTheAdapterGone() {
	for _, object := range c.adapter.Manifest() {
		err := c.env.Client.Get(c.Context(), client.ObjectKeyFromObject(object), object)
		_, isNamespace := object.(*corev1.Namespace)
		isOurs := object.GetLabels()["app.kubernetes.io/name"] == "capv-static-ip"
		switch {
		case isNamespace && err == nil && object.GetDeletionTimestamp().IsZero():
		case isOurs && err == nil && object.GetName() == "capv-static-ip-metrics-reader":
		case apierrors.IsNotFound(err) && !isNamespace && object.GetName() != "capv-static-ip-metrics-reader":
		default:
			c.Errorf("%T %s: labels %v, deleted at %v, %v", object, object.GetName(), object.GetLabels(), object.GetDeletionTimestamp(), err)
		}
	}
}

// expectCollected deletes what the command could not have adopted. The garbage collector does
// not find owners in a version that is not served.
func (c *comeOver) expectCollected() {
	c.delete(harness.Cluster(c.ns, "prod"))
	c.gone(harness.VSphereCluster(c.ns, "prod"))
	c.gone(harness.Claim(c.ns, "prod", harness.DefaultPool))
	machine := c.machine(pausedMachine)
	c.delete(machine)
	c.dropFinalizer(machine, harness.MachineFinalizer)
	c.gone(machine)
	c.gone(harness.Claim(c.ns, ipam.ClaimName(pausedMachine, ipam.Slot{}), harness.DefaultPool))
	for _, ip := range []string{pausedIP, endpointIP} {
		c.returned(ip)
	}
}
