package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/tests/harness"
)

// installed makes what check looks at and the harness has no need for: the Deployment, and
// the Secret with the certificate. The managers are not its Pods.
func (s *scene) installed() *unstructured.Unstructured {
	s.Helper()
	certificate, err := os.ReadFile(filepath.Join(s.env.Certificates.Dir, "tls.crt"))
	if err != nil {
		s.Fatal(err)
	}
	deployment := theManager()
	deployment.Object["spec"] = map[string]any{
		"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}},
		"template": map[string]any{
			"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "manager", "image": "example.org/capv-static-ip:v9.8.7"}}},
		},
	}
	s.createGlobal(deployment, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: harness.SystemNamespace, Name: "capv-static-ip-webhook-service-cert"},
		Data:       map[string][]byte{corev1.TLSCertKey: certificate},
	})
	return deployment
}

// becomesAvailable stands for the Pods of the Deployment.
func (s *scene) becomesAvailable(deployment *unstructured.Unstructured) {
	s.Helper()
	deployment.Object["status"] = map[string]any{
		"observedGeneration": deployment.GetGeneration(), "replicas": int64(2), "readyReplicas": int64(2), "updatedReplicas": int64(2), "availableReplicas": int64(2),
		"conditions": []any{map[string]any{"type": "Available", "status": "True"}},
	}
	if err := s.env.Client.Status().Update(s.Context(), deployment); err != nil {
		s.Fatal(err)
	}
}

func (s *scene) expectAll(text string, want ...string) {
	s.Helper()
	for _, part := range want {
		if !strings.Contains(text, part) {
			s.Errorf("got\n%s\nwant %q in it", text, part)
		}
	}
}

// checkSays returns an error until check says all of this.
func (s *scene) checkSays(flags []string, want ...string) func(context.Context) error {
	return func(context.Context) error {
		stdout, stderr, _ := s.plugin(append([]string{"check"}, flags...)...)
		for _, part := range want {
			if !strings.Contains(stdout, part) {
				return fmt.Errorf("it says\n%s%s\nwant %q", stdout, stderr, part)
			}
		}
		return nil
	}
}

func TestCheckFollowsTheInstallation(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	deployment := s.installed()

	stdout, _, code := s.plugin("check")
	if code != 1 {
		t.Errorf("without a Pod that is ready the exit code is %d, want 1", code)
	}
	s.expectAll(stdout, "deployment  failed", "Now, for deployment: kubectl -n capv-static-ip-system describe pods")

	s.becomesAvailable(deployment)
	stdout, stderr, code := s.plugin("check", "--wait", "5s")
	if code != 0 {
		t.Errorf("the exit code is %d, want 0: %s", code, stderr)
	}
	s.expectAll(stdout, "apis  ok", "IPPool InClusterIPPool", "deployment  ok", "webhook  ok", "authority  ", "certificate  ", "endpoints  ok", "leader  ok",
		`call  ok  the API server asked us about a machine in namespace "NAMESPACE"`)
	s.noClaims()

	versions := decoded[v1alpha1.Version](s, 0, "Version", "version")
	if len(versions) != 2 || versions[1].Version != "v9.8.7" {
		t.Errorf("got %+v, want the versions of client and manager", versions)
	}
	if checks := decoded[v1alpha1.Check](s, 0, "Check", "check"); checks[0].State != "ok" || checks[0].Found == "" {
		t.Errorf("the first check is %+v, want that it is fine", checks[0])
	}
}

func TestCheckSaysWhatItMayNotLookAt(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	name := "check-" + s.ns
	s.createGlobal(
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}, Verbs: []string{"get"}},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}},
		}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}},
		},
	)

	s.eventually("the rights to be there", s.checkSays([]string{"--as", name}, "webhook  ok", "call  unknown  you may not create VSphereMachines", "leader  unknown", "certificate  unknown"))
	stdout, _, code := s.plugin("check", "--as", "nobody-in-particular")
	if code != 3 {
		t.Errorf("the exit code is %d, want 3", code)
	}
	s.expectAll(stdout, "installation  unknown", "forbidden")
}
