package adoption

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/procedure"
)

const capvNamespace = "capv-system"

// theAdapter is the adapter's Deployment.
func theAdapter() *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: adapterName, UID: "adapter"}, Spec: appsv1.DeploymentSpec{Replicas: new(int32(1))}}
}

func controlledBy(kind, name, uid string) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(uid), Controller: new(true)}}
}

// pod is one of a Deployment, with the ReplicaSet between them.
func pod(name, deployment, uid string) []client.Object {
	labels := map[string]string{"control-plane": "controller-manager"}
	return []client.Object{
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: name, UID: types.UID(name), OwnerReferences: controlledBy("Deployment", deployment, uid)}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: name, Labels: labels, OwnerReferences: controlledBy("ReplicaSet", name, name)}},
	}
}

func clientOf(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, meta.NewDefaultRESTMapper(nil))); err != nil {
		t.Fatal(err)
	}
	byName := func(o client.Object) []string { return []string{o.GetName()} }
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&coordinationv1.Lease{}, "metadata.name", byName).WithIndex(&corev1.ConfigMap{}, "metadata.name", byName).Build()
}

func adoptionOf(c client.Client) *Adoption {
	return &Adoption{Client: c, Timeout: 0, Report: func(string, ...any) {}}
}

func readAdapters(t *testing.T, a *Adoption) *state {
	t.Helper()
	s := &state{}
	if err := a.readAdapters(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// CAPV's Pods are in the same namespace, and have the label by which the adapter selects.
func TestPodsOfTheAdapterAreThoseThatItsDeploymentMade(t *testing.T) {
	objects := append(pod("adapter-1", adapterName, "adapter"), pod("capv-1", "capv-controller-manager", "capv")...)
	ended := pod("adapter-0", adapterName, "adapter")
	ended[1].(*corev1.Pod).Status.Phase = corev1.PodSucceeded
	s := readAdapters(t, adoptionOf(clientOf(t, append(append(objects, ended...), theAdapter())...)))

	expect(t, "running", s.running(), "Deployment capv-system/"+adapterName, "Pod capv-system/adapter-1")
}

func TestOnlyWhatCameWithTheAdapterIsDeleted(t *testing.T) {
	ours := map[string]string{installation.AppLabel: installation.App}
	objects := []client.Object{
		theAdapter(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: capvNamespace}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: "capv-controller-manager"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: adapterPrefix + "controller-manager-metrics-service"}},
		&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: adapterPrefix + "leader-election-role"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: adapterPrefix + "manager-role"}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: adapterPrefix + "metrics-reader", Labels: ours}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "capv-static-ip-manager", Labels: ours}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: adapterPrefix + "manager-rolebinding"}},
	}
	a := adoptionOf(clientOf(t, objects...))
	s := readAdapters(t, a)

	expect(t, "deleted", s.named(s.belongings),
		"Role capv-system/capv-static-ip-leader-election-role", "Service capv-system/capv-static-ip-controller-manager-metrics-service",
		"ClusterRoleBinding capv-static-ip-manager-rolebinding", "ClusterRole capv-static-ip-manager-role", "Deployment capv-system/"+adapterName)
	if err := a.deleteAll(t.Context(), s.belongings); err != nil {
		t.Fatal(err)
	}
	if s := readAdapters(t, a); len(s.belongings) > 0 {
		t.Errorf("these are left: %v", s.named(s.belongings))
	}
}

// Who deletes the adapter by hand does it by this list: its manifest has the Namespace of CAPV
// in it, and a ClusterRole that is ours by then.
func TestDocumentationListsWhatCanBeDeletedByHand(t *testing.T) {
	page, err := os.ReadFile("../docs/adapter.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "delete --ignore-not-found")
	text, _, _ = strings.Cut(text, "```")
	listed := slices.DeleteFunc(strings.Fields(text), func(word string) bool { return !strings.Contains(word, "/") })
	want := []string{"deployment/" + adapterName}
	for _, each := range slices.Concat(inNamespace(), everywhere()) {
		name := each.name
		if !each.whole {
			name = adapterPrefix + name
		}
		if each.name != namesakeSuffix {
			want = append(want, strings.ToLower(each.Kind)+"/"+name)
		}
	}
	slices.Sort(listed)
	slices.Sort(want)
	expect(t, "listed", listed, want...)
}

func TestNoteWarnsOfTheManifestOfTheAdapter(t *testing.T) {
	s := newWorld().state()
	s.adapters = []appsv1.Deployment{*theAdapter()}
	for _, keep := range []bool{false, true} {
		a := adoptionOf(clientOf(t))
		a.Keep = keep
		notes := strings.Join(a.notes(s), "\n")
		for _, text := range []string{"by its manifest", "Namespace capv-system", "ClusterRole capv-static-ip-metrics-reader"} {
			if !strings.Contains(notes, text) {
				t.Errorf("keeping the adapter is %v: got the notes\n%s\nwant %q in them", keep, notes, text)
			}
		}
	}
}

// Helm does not install over a ClusterRole that it has not made.
func TestRoleWithTheNameOfOursGoesBeforeWeAreInstalled(t *testing.T) {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: adapterPrefix + "metrics-reader"}}
	s := readAdapters(t, adoptionOf(clientOf(t, theAdapter(), role)))
	expect(t, "of the adapter, with the name of ours", s.named(s.namesake), "ClusterRole capv-static-ip-metrics-reader")

	role.Labels = map[string]string{installation.AppLabel: installation.App}
	s = readAdapters(t, adoptionOf(clientOf(t, theAdapter(), role)))
	expect(t, "ours", s.named(s.namesake))
}

func TestAdapterOfAnotherNameIsFoundIfItIsNamed(t *testing.T) {
	other := theAdapter()
	other.Name = "team-controller-manager"
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "team-manager-role"}}
	a := adoptionOf(clientOf(t, other, role))
	expect(t, "without its name", readAdapters(t, a).running())

	a.Adapter = client.ObjectKeyFromObject(other)
	s := readAdapters(t, a)
	expect(t, "with its name", s.named(s.belongings), "ClusterRole team-manager-role", "Deployment capv-system/team-controller-manager")
}

func TestDeploymentOfAProviderIsNotTakenForTheAdapter(t *testing.T) {
	for label, value := range map[string]string{installation.ProviderLabel: "infrastructure-vsphere", installation.AppLabel: installation.App} {
		other := theAdapter()
		other.Name, other.Labels = "capv-controller-manager", map[string]string{label: value}
		a := adoptionOf(clientOf(t, other))
		a.Adapter = client.ObjectKeyFromObject(other)

		s := readAdapters(t, a)
		if len(s.adapters) > 0 || len(s.mistaken) != 1 || len(s.belongings) > 0 {
			t.Errorf("%s: got %v as the adapter's, and %q as mistaken", label, s.named(s.belongings), s.mistaken)
		}
	}
}

func TestStoppingWaitsForPodAndLease(t *testing.T) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: capvNamespace, Name: adapterLease, UID: "lease"}}
	lease.Spec.HolderIdentity = new("somebody")
	lock := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: capvNamespace, Name: adapterLease, UID: "lock", Annotations: map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"},
	}}
	c := clientOf(t, append(pod("adapter-1", adapterName, "adapter"), theAdapter(), lease, lock)...)
	a := adoptionOf(c)

	err := a.stopThem(t.Context(), readAdapters(t, a))

	stop := &procedure.Stop{}
	if !errors.As(err, &stop) {
		t.Fatalf("got %v, want a stop", err)
	}
	expect(t, "still there", stop.Because, "Pod capv-system/adapter-1", "Lease capv-system/"+adapterLease+", which somebody has",
		"ConfigMap capv-system/"+adapterLease+", by which somebody leads")
	if !strings.Contains(stop.Next, "kubectl -n capv-system scale deployment/"+adapterName+" --replicas=1") {
		t.Errorf("it says %q, and not how to go back", stop.Next)
	}
	stopped := &appsv1.Deployment{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(theAdapter()), stopped); err != nil || !procedure.IsScaledDown(stopped) {
		t.Errorf("got %v replicas and %v, want none", stopped.Spec.Replicas, err)
	}
}

func TestOwnerIsNamedInAVersionThatIsServed(t *testing.T) {
	w := newWorld()
	w.cluster("10.0.0.1")
	object := w.claim("dkp", "VSphereCluster", "dkp", ip1)
	object.OwnerReferences = append(object.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "other"})
	c := clientOf(t, object)
	a := adoptionOf(c)
	stored := &ipamv1.IPClaim{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
		t.Fatal(err)
	}
	w.pool.Claims[0].Object = stored
	stale := w.state().stale()
	if len(stale) != 1 {
		t.Fatalf("got %v, want the claim", stale)
	}

	if err := a.nameOwner(t.Context(), stale[0]); err != nil {
		t.Fatal(err)
	}

	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(object.OwnerReferences)
	want[0].APIVersion = capi.InScheme(c.Scheme(), capi.VSphereClusterKind).GroupVersion().String()
	if !slices.EqualFunc(stored.OwnerReferences, want, func(a, b metav1.OwnerReference) bool {
		return a.APIVersion == b.APIVersion && a.UID == b.UID && a.Name == b.Name && a.Controller == nil
	}) {
		t.Errorf("got %v, want %v", stored.OwnerReferences, want)
	}
}

func TestClaimThatHasChangedIsNotDeleted(t *testing.T) {
	w := newWorld()
	w.cluster("")
	object := w.claim("dkp", "VSphereCluster", "dkp", ip1)
	c := clientOf(t, object)
	a := adoptionOf(c)
	stored := &ipamv1.IPClaim{}
	read := func() {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), stored); err != nil {
			t.Fatal(err)
		}
	}
	read()
	w.pool.Claims[0].Object = stored.DeepCopy()
	stored.Labels = map[string]string{"somebody": "uses it"}
	if err := c.Update(t.Context(), stored); err != nil {
		t.Fatal(err)
	}

	if err := a.makeWay(t.Context(), w.state()); err != nil {
		t.Fatal(err)
	}
	read()

	w.pool.Claims[0].Object = stored.DeepCopy()
	if err := a.makeWay(t.Context(), w.state()); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), stored); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("got %v, want that it is gone", err)
	}
}

func TestWhoInstalledTheAdapterIsAStop(t *testing.T) {
	d := theAdapter()
	d.Annotations = map[string]string{"meta.helm.sh/release-name": "adapter", "meta.helm.sh/release-namespace": capvNamespace}
	s := newWorld().state()
	s.belongings = []object{{Object: d, Kind: "Deployment"}}
	a := adoptionOf(clientOf(t))
	a.Keep, a.Timeout = true, time.Minute

	stops, err := a.stops(context.WithoutCancel(t.Context()), s)
	if err != nil || len(stops) != 1 || !strings.Contains(stops[0].What, `release "adapter" of Helm`) || !strings.Contains(stops[0].Next, "--owner-stopped") {
		t.Errorf("got %v and %v, want a stop for the release", stops, err)
	}
	a.OwnerStopped = true
	if stops, err := a.stops(t.Context(), s); err != nil || len(stops) > 0 {
		t.Errorf("got %v and %v, want none when it is stopped", stops, err)
	}
}
