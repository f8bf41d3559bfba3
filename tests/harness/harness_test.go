package harness_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

var plane *harness.ControlPlane

func TestMain(m *testing.M) {
	harness.RunTests(func(ctx context.Context) (int, error) { return run(ctx, m) })
}

func run(ctx context.Context, m *testing.M) (int, error) {
	start := time.Now()
	started, err := harness.Start(ctx, harness.Options{})
	if err != nil {
		return 1, err
	}
	fmt.Printf("control plane started in %s\n", time.Since(start).Round(time.Millisecond))
	plane = started
	code := m.Run()
	if code != 0 {
		plane.DumpLogs(os.Stderr, 20)
	}
	return code, plane.Stop()
}

func namespace(t *testing.T) string {
	t.Helper()
	name, err := plane.CreateNamespace(t.Context(), "harness")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := plane.Client.Create(t.Context(), object); err != nil {
			t.Fatalf("creating %T %s: %v", object, object.GetName(), err)
		}
	}
}

func TestFixturesAreAcceptedByTheirAPIs(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	template := harness.Template(ns, "cp", harness.WithPool(harness.DefaultPool))
	set, owner := harness.MachineSet(ns, "md-0", "cp"), harness.ControlPlaneOwner(ns, "cp", "cp")
	create(t, harness.Cluster(ns, harness.DefaultCluster), template, set, owner,
		manifest(t, harness.Machine(ns, "no-devices", harness.WithDevices()), "v1beta2"),
		harness.Machine(ns, "devices", harness.WithDevices(harness.DHCPDevice(), harness.FixedDevice("10.0.0.1/24"),
			harness.SkippedDevice(), harness.PooledDevice("other"))))

	machine := harness.Clone(template, "cp-0", harness.WithOwner(owner), harness.WithFinalizer(harness.MachineFinalizer))
	if err := harness.Apply(t.Context(), plane.Client, machine, harness.ControlPlaneManager); err != nil {
		t.Fatal(err)
	}
	if machine.UID == "" || machine.ManagedFields[0].Manager != harness.ControlPlaneManager {
		t.Errorf("applied machine came back with UID %q, managed by %v", machine.UID, machine.ManagedFields)
	}
	create(t, harness.VSphereVM(machine))

	create(t, manifest(t, harness.Machine(ns, "older", harness.WithOwner(set)), "v1beta1"))
}

func manifest(t *testing.T, object client.Object, version string) client.Object {
	t.Helper()
	converted, err := harness.AsVersion(object, version)
	if err != nil {
		t.Fatal(err)
	}
	return converted
}

func TestMetal3BindsClaims(t *testing.T) {
	metal3, err := plane.StartMetal3(t.Context(), harness.Metal3Options{})
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	create(t, harness.Pool(ns))
	bind(t, harness.Claim(ns, "first", harness.DefaultPool))

	if err := metal3.Stop(); err != nil {
		t.Fatal(err)
	}
	err = plane.Client.Create(t.Context(), harness.Claim(ns, "refused", harness.DefaultPool))
	if !apierrors.IsInternalError(err) {
		t.Errorf("a claim made while metal3 is stopped: got %v, want its webhook not to answer", err)
	}
	if err := metal3.RemoveWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, harness.Claim(ns, "waiting", harness.DefaultPool))
	if err := metal3.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting := harness.Claim(ns, "waiting", harness.DefaultPool)
	if _, err := harness.WaitBound(t.Context(), plane.Client, waiting, harness.Soon); err != nil {
		t.Fatal(err)
	}
	if err := metal3.InstallWebhooks(t.Context()); err != nil {
		t.Fatal(err)
	}
	bind(t, harness.Claim(ns, "third", harness.DefaultPool))
	if err := errors.Join(metal3.RemoveWebhooks(t.Context()), metal3.Stop()); err != nil {
		t.Error(err)
	}
}

func bind(t *testing.T, claim client.Object) {
	t.Helper()
	start := time.Now()
	create(t, claim)
	address, err := harness.WaitBound(t.Context(), plane.Client, claim, harness.Soon)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("claim %s has %s after %s", claim.GetName(), address.IP, time.Since(start))
}

func TestGarbageIsCollected(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "owner"}}
	create(t, owner)
	machine := harness.Machine(ns, "owned", harness.WithOwner(owner))
	create(t, machine)
	if err := plane.Client.Delete(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := harness.WaitGone(t.Context(), plane.Client, machine, harness.Soon); err != nil {
		t.Fatal(err)
	}
	t.Logf("collected after %s", time.Since(start))
}

func TestServiceAccountHasOnlyItsOwnRights(t *testing.T) {
	t.Parallel()
	identity, err := plane.ServiceAccount("some-system", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(identity.Config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	err = c.List(t.Context(), &corev1.SecretList{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("listing secrets without any rights: got %v, want it forbidden", err)
	}
}

// It is not parallel, and so runs while no other test talks to the API server.
func TestAPIServerComesBackAfterRestart(t *testing.T) {
	ns := namespace(t)
	start := time.Now()
	if err := plane.RestartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("restarted in %s", time.Since(start))
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: ns}, &corev1.Namespace{}); err != nil {
		t.Errorf("reading what was there before the restart: %v", err)
	}
}

// It is not parallel: the webhook is called for every machine.
func TestInstallationCallsTheForwarder(t *testing.T) {
	ns := namespace(t)
	installation, err := plane.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	create(t, harness.Machine(ns, "dhcp", harness.WithDevices(harness.DHCPDevice())))
	err = plane.Client.Create(t.Context(), harness.Machine(ns, "static"))
	if !apierrors.IsInternalError(err) {
		t.Errorf("creating a machine while no manager runs: got %v, want the webhook not to answer", err)
	}
	c, err := client.New(installation.Identity().Config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.List(t.Context(), &capvv1.VSphereMachineList{}); err != nil {
		t.Errorf("listing machines with the manager's rights: %v", err)
	}
	if err := c.List(t.Context(), &corev1.SecretList{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing secrets with the manager's rights: got %v, want it forbidden", err)
	}
	if err := installation.RemoveWebhook(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, harness.Machine(ns, "static"))
}
