package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
)

// removalPage is whose commands are run.
const removalPage = "docs/uninstall.md"

// removal is a control plane on which the commands of removalPage are run.
type removal struct {
	*scene
	// The page's shell blocks, in its order.
	withoutWebhook, functions, held, unsafe, stopped, stripped, uninstalled string
}

// newRemoval has machines of both providers on a control plane of their own, each of which
// has one that holds on to life, and one whose claim or address a test takes away.
func newRemoval(t *testing.T) *removal {
	t.Helper()
	env := ownEnvironment(t, harness.Options{WholeStack: true}, 2)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &removal{scene: newScene(t, env)}
	r.readSteps()
	r.run(theDeployment)
	r.create(harness.Pool(r.ns))
	r.inClusterPool()
	for _, machine := range []*capvv1.VSphereMachine{r.pooled("metal3"), r.inClusterMachine("in-cluster")} {
		harness.WithFinalizer(harness.MachineFinalizer)(machine)
		r.create(machine)
	}
	r.awaitAdoption()
	for _, machine := range []*capvv1.VSphereMachine{r.pooled(bereftOfMetal3), r.inClusterMachine(bereftOfInCluster)} {
		r.create(machine)
		r.settled(machine.Name)
	}
	return r
}

// One control plane, from which we are removed twice.
func TestRemovalByTheDocumentedWay(t *testing.T) {
	t.Parallel()
	r := newRemoval(t)

	t.Run("frees no address of the machines that stay", func(t *testing.T) { r.in(t).keepsMachines() })
	t.Run("installed again, it adopts the machines that it finds", func(t *testing.T) { r.in(t).installAgain() })
	t.Run("after the machines, leaves nothing", func(t *testing.T) { r.in(t).followsMachines() })
}

// theDeployment is made for the commands to find; nothing runs its pods.
const theDeployment = "kubectl create -f deploy/manager/deployment.yaml"

func (r *removal) in(t *testing.T) *removal {
	in := *r
	in.scene = &scene{T: t, env: r.env, ns: r.ns}
	return &in
}

// readSteps reads what the page tells to run.
func (r *removal) readSteps() {
	r.Helper()
	steps := []*string{&r.withoutWebhook, &r.functions, &r.held, &r.unsafe, &r.stopped, &r.stripped, &r.uninstalled}
	page, err := docs.Read(r.env.Root(), removalPage)
	if err != nil {
		r.Fatal(err)
	}
	blocks := page.Blocks("sh")
	if len(blocks) != len(steps) {
		r.Fatalf("%s tells to run %d blocks, want %d", removalPage, len(blocks), len(steps))
	}
	for i, step := range steps {
		*step = blocks[i]
	}
}

// awaitAdoption waits until both machines hold the addresses that they began with.
func (r *removal) awaitAdoption() {
	r.Helper()
	if got := r.settled("metal3"); got != firstIP {
		r.Errorf("the machine of metal3 has %s, want %s", got, firstIP)
	}
	if got := r.settled("in-cluster"); got != inClusterFirst {
		r.Errorf("the machine of in-cluster has %s, want %s", got, inClusterFirst)
	}
}

// run runs commands as an administrator does, and returns what they print.
func (r *removal) run(commands ...string) string {
	r.Helper()
	return shell(r.T, r.env, "", commands...)
}

// shell runs commands in the project's folder, with these flags for kubectl, and
// returns what they print.
func shell(t *testing.T, env *environment, flags string, commands ...string) string {
	t.Helper()
	kubectl, err := env.Kubectl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", `kubectl() { "$KUBECTL" $FLAGS "$@"; }`+"\n"+strings.Join(commands, "\n"))
	cmd.Dir = env.Root()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+env.Kubeconfig, "KUBECTL="+kubectl, "FLAGS="+flags)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s\n%s%s%v", cmd.Args[len(cmd.Args)-1], stdout.String(), stderr.String(), err)
	}
	return stdout.String()
}

// printsNothing returns an error as long as commands print something.
func (r *removal) printsNothing(commands ...string) func(context.Context) error {
	return func(context.Context) error {
		if text := r.run(commands...); text != "" {
			return fmt.Errorf("they print:\n%s", text)
		}
		return nil
	}
}

// stopManagers stands for the end of the Deployment's pods.
func (r *removal) stopManagers() {
	r.Helper()
	for _, manager := range r.env.managers {
		if err := manager.Stop(); err != nil {
			r.Fatal(err)
		}
	}
}

// uninstall runs the last step, after which nothing holds up anything.
func (r *removal) uninstall() {
	r.Helper()
	r.run(r.uninstalled)
	r.gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: harness.SystemNamespace}})
}

// addressesAreTaken returns an error if an address of a machine is not bound to
// its claim any more, or is about to be freed.
func (r *removal) addressesAreTaken() error {
	address, err := r.address(firstIP)
	if err != nil {
		return err
	}
	contractAddress, err := r.address(inClusterFirst)
	if err != nil {
		return err
	}
	claim, err := r.claim("metal3")
	if err != nil {
		return err
	}
	contractClaim, err := r.claim("in-cluster")
	if err != nil {
		return err
	}
	for _, object := range []client.Object{address, contractAddress, claim, contractClaim} {
		if deleted := object.GetDeletionTimestamp(); !deleted.IsZero() {
			return fmt.Errorf("%T %s was deleted at %s", object, object.GetName(), deleted)
		}
	}
	return nil
}

func (r *removal) keepsMachines() {
	r.run(r.withoutWebhook)
	r.eventually("the page's commands to say that all is safe", r.printsNothing(r.functions, r.unsafe))
	r.stopManagers()
	bereft := r.bereave()
	r.run(r.functions, r.unsafe, r.stopped)
	printed := r.run(r.functions, r.stripped)
	for _, line := range bereft.lines() {
		if !strings.Contains(printed, "passed over, because it is being deleted: "+line) {
			r.Errorf("the page's commands print\n%swant them to pass over %s", printed, line)
		}
	}
	r.consistently("what is being deleted is kept", func(context.Context) error { return bereft.areKept() })
	bereft.letGo()
	r.uninstall()

	everything := r.run("kubectl get vspheremachines,ipclaims,ipaddresses.ipam.metal3.io,ipaddressclaims,ipaddresses.ipam.cluster.x-k8s.io -A -o yaml")
	for _, finalizer := range []string{ipam.ReleaseFinalizer, ipam.InUseFinalizer} {
		if strings.Contains(everything, finalizer) {
			r.Errorf("%s is left:\n%s", finalizer, everything)
		}
	}
	r.consistently("every machine keeps its address", func(context.Context) error { return r.addressesAreTaken() })
}

// bereft are two machines of which somebody deletes the claims while no manager
// runs. Their VMs use the addresses.
type bereft struct {
	*removal
	// held is what our finalizer alone keeps, by the name of its kind: the claim of
	// metal3, and the address of in-cluster, whose claim is gone.
	held map[string]client.Object
	// addresses are those of both machines.
	addresses []client.Object
}

const (
	bereftOfMetal3    = "bereft-metal3"
	bereftOfInCluster = "bereft-in-cluster"
)

// bereave deletes their claims, and waits until the page's commands tell of it.
func (r *removal) bereave() *bereft {
	r.Helper()
	b := &bereft{removal: r}
	var claims []client.Object
	for _, machine := range []string{bereftOfMetal3, bereftOfInCluster} {
		claim, err := r.claim(machine)
		if err != nil {
			r.Fatal(err)
		}
		address, err := r.address(r.ip(machine))
		if err != nil {
			r.Fatal(err)
		}
		claims, b.addresses = append(claims, claim), append(b.addresses, address)
		r.delete(claim)
	}
	b.held = map[string]client.Object{"ipclaims.ipam.metal3.io": claims[0], "ipaddresses.ipam.cluster.x-k8s.io": b.addresses[1]}
	r.eventually("the page's commands to name what is being deleted", func(context.Context) error {
		text := r.run(r.functions, r.unsafe)
		for _, line := range b.lines() {
			if !strings.Contains(text, line) {
				return fmt.Errorf("they print\n%snot %s", text, line)
			}
		}
		return nil
	})
	return b
}

// lines are how the page's commands name what is held.
func (b *bereft) lines() []string {
	var lines []string
	for kind, object := range b.held {
		lines = append(lines, fmt.Sprintf("%s %s %s\n", kind, b.ns, object.GetName()))
	}
	return lines
}

func (b *bereft) areKept() error {
	for _, address := range b.addresses {
		if err := b.env.Client.Get(b.Context(), client.ObjectKeyFromObject(address), address); err != nil {
			return fmt.Errorf("reading address %s: %w", address.GetName(), err)
		}
	}
	return nil
}

// letGo stands for the administrator who has replaced the machines.
func (b *bereft) letGo() {
	b.Helper()
	for _, name := range []string{bereftOfMetal3, bereftOfInCluster} {
		machine := b.machine(name)
		b.delete(machine)
		b.gone(machine)
	}
	for _, object := range b.held {
		b.dropFinalizer(object, ipam.InUseFinalizer)
	}
	for _, address := range b.addresses {
		b.gone(address)
	}
}

func (r *removal) installAgain() {
	if err := r.env.Apply(r.Context()); err != nil {
		r.Fatal(err)
	}
	r.run(theDeployment)
	for _, manager := range r.env.managers {
		if err := manager.Start(r.Context()); err != nil {
			r.Fatal(err)
		}
	}
	r.awaitAdoption()
}

func (r *removal) followsMachines() {
	r.run(r.withoutWebhook)
	held := r.run(r.functions, r.held)
	for _, object := range []string{
		"vspheremachines.infrastructure.cluster.x-k8s.io " + r.ns + " metal3 ",
		"vspheremachines.infrastructure.cluster.x-k8s.io " + r.ns + " in-cluster ",
		"ipclaims.ipam.metal3.io " + r.ns + " metal3-0\n",
		"ipaddressclaims.ipam.cluster.x-k8s.io " + r.ns + " in-cluster-0\n",
	} {
		if !strings.Contains(held, object) {
			r.Errorf("of what is held, the page's commands print\n%swant them to name %q", held, object)
		}
	}
	pools := []client.Object{harness.Pool(r.ns), harness.InClusterPool(r.ns)}
	for _, pool := range pools {
		r.annotate(pool, ipam.ReuseAfterAnnotation, new(forLong.String()))
	}
	for _, name := range []string{"metal3", "in-cluster"} {
		r.gone(r.deleted(r.machine(name), harness.MachineFinalizer))
	}
	want := fmt.Sprintf("ipclaims.ipam.metal3.io %[1]s metal3-0\nipaddressclaims.ipam.cluster.x-k8s.io %[1]s in-cluster-0\n", r.ns)
	if got := r.run(r.functions, "cooling"); got != want {
		r.Errorf("of what cools down, the page's commands print\n%swant\n%s", got, want)
	}
	for _, pool := range pools {
		r.annotate(pool, ipam.ReuseAfterAnnotation, new("0s"))
	}
	r.eventually("the page's commands to say that nothing is held", r.printsNothing(r.functions, r.held))
	r.stopManagers()
	r.uninstall()

	r.noClaims()
	r.returned(firstIP)
	r.returned(inClusterFirst)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}}
	r.delete(namespace)
	if err := harness.WaitGone(r.Context(), r.env.Client, namespace, 3*harness.Soon); err != nil {
		r.Error(err)
	}
}
