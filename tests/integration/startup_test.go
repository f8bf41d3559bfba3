package integration

import (
	"context"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	rbacv1 "k8s.io/api/rbac/v1"

	"capv-static-ip.dev/tests/harness"
)

// TestManagersInstalledBeforeMetal3 begins with a management cluster without
// metal3, where an owner may be named only by those who may change it. First
// the managers must live without metal3 and then with it, without a restart, and
// nothing may be forbidden. All that they do is gone through for each way to install.
func TestManagersInstalledBeforeMetal3(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{
		WithoutMetal3:    true,
		AdmissionPlugins: []string{"OwnerReferencesPermissionEnforcement"},
	}, 2)
	pids := env.pids()

	t.Run("are ready, and deny what needs metal3", func(t *testing.T) {
		s := newScene(t, env)
		for _, manager := range env.managers {
			if err := manager.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		}
		s.create(harness.Machine(s.ns, "dhcp", harness.WithDevices(harness.DHCPDevice())))
		s.refused(s.pooled("cp-0"), "for an IPPool install the metal3 IP Address Manager first")
	})
	t.Run("serve without a restart when metal3 is there", func(t *testing.T) {
		if err := env.InstallMetal3CRDs(t.Context()); err != nil {
			t.Fatal(err)
		}
		metal3, err := env.StartMetal3(t.Context(), harness.Metal3Options{})
		if err != nil {
			t.Fatal(err)
		}
		env.metal3 = metal3
		s := newScene(t, env)
		s.create(harness.Pool(s.ns))
		for _, manager := range env.managers {
			s.eventually(manager.Name+" to be ready with metal3", manager.Ready)
		}
		machine := s.pooled("cp-0")
		s.eventually("a machine to be admitted", func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(s.env.Client.Create(ctx, machine))
		})
		ip := s.settled("cp-0")
		s.delete(machine)
		s.gone(machine)
		s.returned(ip)
		if now := env.pids(); !slices.Equal(now, pids) {
			t.Errorf("the managers' processes are %v, want those from before metal3, %v", now, pids)
		}
	})
	t.Run("own claims only with a right to the machines' finalizers", func(t *testing.T) {
		ownerReferencesAreEnforced(newScene(t, env))
	})
	t.Run("count what they do", func(t *testing.T) {
		everythingIsCounted(newScene(t, env))
	})
	t.Run("serve another provider's pools", func(t *testing.T) {
		if _, err := env.StartInCluster(t.Context()); err != nil {
			t.Fatal(err)
		}
		inClusterLife(newScene(t, env))
	})
	t.Run("are forbidden nothing", func(t *testing.T) {
		for _, manager := range env.managers {
			newScene(t, env).expectNothingForbidden(manager, true)
		}
	})
}

// pids are the numbers of the managers' processes, 0 for one that has ended.
func (e *environment) pids() []int {
	pids := make([]int, len(e.managers))
	for i, manager := range e.managers {
		if manager.Running() {
			pids[i] = manager.PID()
		}
	}
	return pids
}

// ownerReferencesAreEnforced checks that the API server would stop a manager that
// lacked the right which deploy/ grants for it.
func ownerReferencesAreEnforced(s *scene) {
	s.create(harness.Pool(s.ns), s.pooled("cp-0"))
	s.settled("cp-0")
	claim := harness.Claim(s.ns, "another", harness.DefaultPool)
	s.create(claim)
	user, err := s.env.Credentials("mallory")
	if err != nil {
		s.Fatal(err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: s.ns}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"ipam.metal3.io"}, Resources: []string{"ipclaims"}, Verbs: []string{"*"},
	}}}
	s.create(role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.ns},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "mallory"}},
	})
	c, err := client.New(user.Config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		s.Fatal(err)
	}
	own := func(key, value string) error {
		if err := s.env.Client.Get(s.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
			return err
		}
		before := claim.DeepCopy()
		if key != "" {
			harness.WithAnnotation(key, value)(claim)
			return c.Patch(s.Context(), claim, client.MergeFrom(before))
		}
		claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s.machine("cp-0"), capvv1.GroupVersion.WithKind("VSphereMachine"))}
		return c.Patch(s.Context(), claim, client.MergeFrom(before))
	}
	s.eventually("the right to change claims to be in force", func(context.Context) error { return own("test", "yes") })
	if err := own("", ""); !apierrors.IsForbidden(err) {
		s.Errorf("naming an owner without a right to it: got %v, want it forbidden", err)
	}
	s.delete(claim)
}
