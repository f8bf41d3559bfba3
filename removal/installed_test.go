package removal

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
)

// Anybody who may label what others have could have it deleted otherwise.
func TestWhatHasOurLabelAloneStays(t *testing.T) {
	named := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{installation.AppLabel: installation.App}}
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, rbacv1.SchemeGroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	mapper.Add(rbacv1.SchemeGroupVersion.WithKind("ClusterRole"), meta.RESTScopeRoot)
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithRESTMapper(mapper).WithObjects(
		&corev1.ConfigMap{ObjectMeta: named("team", "theirs")},
		&corev1.ConfigMap{ObjectMeta: named("team", "capv-static-ip-dashboard")},
		&corev1.ConfigMap{ObjectMeta: named("ours", "whatever")},
		&corev1.Namespace{ObjectMeta: named("", "team")},
		&corev1.Namespace{ObjectMeta: named("", "ours")},
		&corev1.Namespace{ObjectMeta: named("", installation.Namespace)},
		&rbacv1.ClusterRole{ObjectMeta: named("", "edit")},
		&rbacv1.ClusterRole{ObjectMeta: named("", "mirror-capv-static-ip-manager")},
	).Build()
	r := &Removal{Client: c}
	s := &state{graph: &inventory.Graph{}, deployments: []appsv1.Deployment{{ObjectMeta: metav1.ObjectMeta{Namespace: "ours", Name: "m"}}}}

	if err := r.readInstalled(t.Context(), s); err != nil {
		t.Fatal(err)
	}

	rest := s.named(s.rest)
	slices.Sort(rest)
	if want := []string{
		"ClusterRole mirror-capv-static-ip-manager", "ConfigMap ours/whatever", "ConfigMap team/capv-static-ip-dashboard",
		"Namespace " + installation.Namespace, "Namespace ours",
	}; !slices.Equal(rest, want) {
		t.Errorf("it would delete %q, want %q", rest, want)
	}
	notes := strings.Join(r.notes(s), "\n")
	for _, stays := range []string{"ConfigMap team/theirs stays: it has our label, but", "Namespace team stays: it has", "ClusterRole edit stays: it has"} {
		if !strings.Contains(notes, stays) {
			t.Errorf("it tells\n%s\nwithout %q", notes, stays)
		}
	}
}

// A removal that was killed knows the Namespace by the Deployment.
func TestDeploymentIsDeletedRightBeforeTheNamespace(t *testing.T) {
	kinds := InstalledKinds()
	if got := kinds[len(kinds)-2:]; got[0].Kind != "Deployment" || got[1].Kind != namespaceKind {
		t.Errorf("the last are %v", got)
	}
}
