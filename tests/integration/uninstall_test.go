package integration

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// uninstall is a control plane on which kubectl static-ip uninstall is run.
type uninstall struct{ *removal }

// One control plane, from which we are removed twice.
func TestUninstallCommand(t *testing.T) {
	t.Parallel()
	u := &uninstall{newRemoval(t)}

	u.create(harness.VSphereCluster(u.ns, "prod", endpointOf(harness.OfMetal3)))
	endpoint := u.vsphereCluster("prod").Spec.ControlPlaneEndpoint.Host
	u.create(harness.Cluster(u.ns, "prod", harness.WithEndpoint(endpoint, 6443)))
	u.eventually("the endpoint to be held", func(context.Context) error { return u.endpointIsHeld("prod", endpoint) })

	t.Run("does not begin while something stands against it", func(t *testing.T) { u.in(t).refusesToBegin() })
	t.Run("frees no address of the machines that stay, however often it is killed", func(t *testing.T) { u.in(t).keepsMachines() })
	t.Run("installed again, it adopts the machines that it finds", func(t *testing.T) { u.in(t).installAgain() })
	t.Run("after the machines, leaves nothing", func(t *testing.T) { u.in(t).followsMachines() })
}

func (u *uninstall) in(t *testing.T) *uninstall { return &uninstall{u.removal.in(t)} }

// running is a command of the plugin while it runs.
type running struct {
	*scene
	cmd *exec.Cmd

	mu    sync.Mutex
	said  strings.Builder
	ended bool
}

// begin starts the command.
func (u *uninstall) begin(args ...string) *running {
	u.Helper()
	return u.start(append([]string{"uninstall"}, args...)...)
}

// start starts a command of the plugin.
func (s *scene) start(args ...string) *running {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	r := &running{scene: s, cmd: exec.CommandContext(s.Context(), path, append([]string{"--kubeconfig", s.env.Kubeconfig}, args...)...)}
	output, err := r.cmd.StderrPipe()
	if err != nil {
		s.Fatal(err)
	}
	r.cmd.Stdout = io.Discard
	if err := r.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			r.mu.Lock()
			r.said.WriteString(lines.Text() + "\n")
			r.mu.Unlock()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended = true
	}()
	return r
}

func (r *running) text() (said string, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String(), r.ended
}

// awaits waits until the command says something.
func (r *running) awaits(text string) {
	r.Helper()
	err := harness.Eventually(r.Context(), 3*harness.Soon, "the command to say "+text, func(context.Context) error {
		said, ended := r.text()
		switch {
		case strings.Contains(said, text):
			return nil
		case ended:
			r.Fatalf("it ends, and said\n%s\nwant %q", said, text)
		}
		return errors.New(said)
	})
	if err != nil {
		r.Fatal(err)
	}
}

// killed kills the command when it says something.
func (r *running) killed(text string) {
	r.Helper()
	r.awaits(text)
	if err := r.cmd.Process.Kill(); err != nil {
		r.Fatal(err)
	}
	_ = r.cmd.Wait()
}

// ends waits for the end of the command, and checks the exit code and what it said.
func (r *running) ends(code int, want ...string) {
	r.Helper()
	err := harness.Eventually(r.Context(), 4*harness.Soon, "the command to end", func(context.Context) error {
		if said, ended := r.text(); !ended {
			return errors.New(said)
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	_ = r.cmd.Wait()
	said, _ := r.text()
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.Fatalf("it exits with %d and said\n%swant %d", got, said, code)
	}
	for _, text := range want {
		if !strings.Contains(said, text) {
			r.Errorf("it said\n%swant %q in it", said, text)
		}
	}
}

// theManager is the Deployment.
func theManager() *unstructured.Unstructured {
	deployment := &unstructured.Unstructured{}
	deployment.SetGroupVersionKind(appsv1.SchemeGroupVersion.WithKind("Deployment"))
	deployment.SetNamespace(harness.SystemNamespace)
	deployment.SetName("capv-static-ip-manager")
	return deployment
}

// replicas are those that the Deployment is to have.
func (u *uninstall) replicas() int64 {
	u.Helper()
	deployment := theManager()
	if err := u.env.Client.Get(u.Context(), client.ObjectKeyFromObject(deployment), deployment); err != nil {
		u.Fatal(err)
	}
	replicas, _, err := unstructured.NestedInt64(deployment.Object, "spec", "replicas")
	if err != nil {
		u.Fatal(err)
	}
	return replicas
}

func (u *uninstall) scale(replicas int64) {
	u.Helper()
	deployment := theManager()
	u.change(deployment, func() {
		if err := unstructured.SetNestedField(deployment.Object, replicas, "spec", "replicas"); err != nil {
			u.Fatal(err)
		}
	})
}

// pod stands for one of the Deployment's. It goes when the test lets it.
func (u *uninstall) pod() *corev1.Pod {
	u.Helper()
	object, deployment := theManager(), &appsv1.Deployment{}
	if err := u.env.Client.Get(u.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		u.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
		u.Fatal(err)
	}
	template := deployment.Spec.Template
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Namespace, pod.Name = harness.SystemNamespace, "capv-static-ip-manager-1"
	u.create(pod)
	return pod
}

func (u *uninstall) refusesToBegin() {
	u.begin("--yes").ends(2, "5 machines and VSphereClusters hold addresses")

	template := harness.Template(u.ns, "md", harness.WithLabel("cluster.x-k8s.io/ip-pool-name", "dkp-cluster"))
	u.create(template)
	u.begin("--drain", "--yes").ends(1, "still rely on capv-static-ip", "VSphereMachineTemplate "+u.ns+"/md", "nothing was changed")
	u.delete(template)

	deployment := theManager()
	u.annotate(deployment, "meta.helm.sh/release-name", new("ours"))
	u.annotate(deployment, "meta.helm.sh/release-namespace", new("there"))
	u.begin("--keep-machines", "--yes").ends(1, `release "ours" of Helm in namespace "there"`, "--owner-stopped", "helm uninstall ours --namespace there")
	u.begin("--keep-machines", "--owner-stopped", "--dry-run").ends(0)
	for _, key := range []string{"meta.helm.sh/release-name", "meta.helm.sh/release-namespace"} {
		u.annotate(deployment, key, nil)
	}

	cluster := harness.Cluster(u.ns, "paused")
	cluster.Spec.Paused = new(true)
	u.create(cluster)
	machine := u.machine("metal3")
	u.change(machine, func() { harness.WithLabel("cluster.x-k8s.io/cluster-name", cluster.Name)(machine) })
	u.begin("--keep-machines", "--yes").ends(1, "are paused", "Cluster "+u.ns+"/paused")
	u.change(machine, func() { delete(machine.Labels, "cluster.x-k8s.io/cluster-name") })
	u.delete(cluster)

	u.begin("--keep-machines").ends(1, "nobody said yes")
	u.begin("--keep-machines", "--yes", "--as", "nobody-in-particular").ends(3, "forbidden")
	if u.replicas() == 0 {
		u.Error("the manager was stopped by a command that did not begin")
	}
	u.stillHolds("metal3", "in-cluster")
}

// stillHolds checks that machines have our finalizer.
func (u *uninstall) stillHolds(machines ...string) {
	u.Helper()
	for _, name := range machines {
		if machine := u.machine(name); !strings.Contains(strings.Join(machine.Finalizers, " "), ipam.ReleaseFinalizer) {
			u.Errorf("the finalizers of %s are %v, want ours among them", name, machine.Finalizers)
		}
	}
}

func (u *uninstall) keepsMachines() {
	keep := []string{"--keep-machines", "--yes", "--timeout=1m"}
	pod := u.pod()
	u.begin(keep...).killed("step 1 of 6 is done")
	u.begin(keep...).killed("step 2 of 6 is done")
	u.begin(keep...).killed("step 3 of 6 is done")
	u.stillHolds("metal3", "in-cluster")

	again := u.begin(keep...)
	again.awaits("Pod " + harness.SystemNamespace + "/" + pod.Name)
	u.delete(pod, client.GracePeriodSeconds(0))
	again.awaits("waiting for 1: Lease")
	u.stillHolds("metal3", "in-cluster")
	u.stopManagers()
	again.killed("step 4 of 6 is done")

	// Killed there it may already have stripped everything: only what still has our
	// finalizers can be bereft.
	u.keepsWhatIsDeletedMeanwhile(keep)

	u.begin(keep...).killed("step 5 of 6 is done")
	u.begin(keep...).ends(0, "capv-static-ip is removed", "IPClaim.ipam.metal3.io "+u.ns+"/prod keeps the endpoint of a Cluster")

	u.leftNothing()
	u.consistently("every machine and the endpoint keep their addresses", func(context.Context) error {
		_, err := u.address(u.vsphereCluster("prod").Spec.ControlPlaneEndpoint.Host)
		return errors.Join(err, u.addressesAreTaken())
	})
}

// keepsWhatIsDeletedMeanwhile deletes claims while no manager runs. The command refuses to
// go on until one runs again, and the machines are gone.
func (u *uninstall) keepsWhatIsDeletedMeanwhile(keep []string) {
	u.Helper()
	u.restart()
	for _, name := range []string{bereftOfMetal3, bereftOfInCluster} {
		u.settled(name)
	}
	u.stopManagers()
	u.scale(0)
	bereft := u.bereave()

	u.begin("--keep-machines", "--yes", "--timeout=2s").ends(1, "is being deleted", "scale deployment/capv-static-ip-manager --replicas=2")
	u.consistently("what is being deleted is kept", func(context.Context) error { return bereft.areKept() })
	u.stillHolds("metal3", "in-cluster", bereftOfMetal3, bereftOfInCluster)

	// An address that is being deleted stays so: its machine has to be replaced.
	u.restart()
	again := u.begin(keep...)
	again.awaits("waiting for ")
	for _, name := range []string{bereftOfMetal3, bereftOfInCluster} {
		u.delete(u.machine(name))
	}
	again.awaits("step 3 of 6 is done")
	u.stopManagers()
	again.killed("step 4 of 6 is done")
}

// restart stands for the Deployment's scaling up.
func (u *uninstall) restart() {
	u.Helper()
	u.scale(2)
	for _, manager := range u.env.managers {
		if err := manager.Start(u.Context()); err != nil {
			u.Fatal(err)
		}
	}
}

// leftNothing checks that nothing of ours is left: no finalizer and no object.
func (u *uninstall) leftNothing() {
	u.Helper()
	u.gone(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: harness.SystemNamespace}})
	everything := u.run("kubectl get vspheremachines,vsphereclusters,ipclaims,ipaddresses.ipam.metal3.io,ipaddressclaims,ipaddresses.ipam.cluster.x-k8s.io -A -o yaml")
	for _, finalizer := range []string{ipam.ReleaseFinalizer, ipam.InUseFinalizer} {
		if strings.Contains(everything, finalizer) {
			u.Errorf("%s is left:\n%s", finalizer, everything)
		}
	}
	left := u.run("kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies," +
		"validatingadmissionpolicybindings,clusterroles,clusterrolebindings,namespaces -l app.kubernetes.io/name=capv-static-ip -o name")
	if left != "" {
		u.Errorf("these are left:\n%s", left)
	}
}

func (u *uninstall) followsMachines() {
	drain := u.begin("--drain", "--yes", "--timeout=1m")
	drain.awaits("waiting for ")
	u.delete(harness.Cluster(u.ns, "prod"))
	u.delete(u.vsphereCluster("prod"))
	for _, name := range []string{"metal3", "in-cluster"} {
		u.gone(u.deleted(u.machine(name), harness.MachineFinalizer))
	}
	drain.awaits("step 3 of 5 is done")
	u.stopManagers()
	drain.ends(0, "capv-static-ip is removed")

	u.leftNothing()
	u.noClaims()
	u.returned(firstIP)
	u.returned(inClusterFirst)
}
