package integration

import (
	"encoding/json"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/tests/harness"
)

func TestAuditTellsWhatIsWrongAndWhatToDo(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 90), harness.WithLabel("clusterctl.cluster.x-k8s.io/move-hierarchy", ""))
	s.create(s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))

	stdout, stderr, code := s.plugin("audit", "--fail-on", "warning")
	if code != 0 || !strings.HasPrefix(stdout, "0 errors, 0 warnings in ") || !strings.HasSuffix(stdout, " (1 cluster, 1 machine, 1 pool)\n") {
		t.Errorf("where all is well, audit exits with %d and prints\n%s\n%s", code, stdout, stderr)
	}

	twice := harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.StaticDevice()))
	twice.Spec.Network.Devices[0].IPAddrs = []string{f.IP(88) + "/24"}
	s.create(twice)
	const finding = "error  SIP-001  " + "10.16.56.88  used by VSphereMachine NAMESPACE/by-hand and VSphereMachine NAMESPACE/cp-0: " +
		"give by-hand another address, or take 10.16.56.88 out of IPPool dkp-cluster\n"
	stdout, stderr, code = s.plugin("audit")
	if code != 1 || !strings.HasPrefix(stdout, "SEVERITY  CHECK  OBJECT  FINDING\n"+finding+"1 error, 0 warnings in ") {
		t.Errorf("audit exits with %d and prints\n%s\n%s\nwant %s", code, stdout, stderr, finding)
	}
	stdout, _, code = s.plugin("audit", "--checks", "sip-001", "-o", "json")
	var all struct {
		APIVersion, Kind string
		Items            []struct{ Kind, Severity, Check, Object, Finding, Remedy string }
	}
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatal(err)
	}
	if code != 1 || all.APIVersion != "cli.capv-static-ip.dev/v1alpha1" || all.Kind != "FindingList" || len(all.Items) != 1 ||
		all.Items[0].Check != "SIP-001" || all.Items[0].Severity != "error" || all.Items[0].Remedy == "" {
		t.Errorf("got %d and %+v, want a FindingList of one error", code, all)
	}
	if _, _, code := s.plugin("audit", "--checks", "SIP-004,SIP-006"); code != 0 {
		t.Errorf("checks that find nothing have the exit code %d, want 0", code)
	}
	s.delete(twice)
}

func TestAuditDoesNotTakeWhatItMayNotDo(t *testing.T) {
	s := newScene(t, shared)
	for _, wrong := range [][]string{{"--fail-on", "nothing"}, {"--checks", "SIP-999"}} {
		if _, stderr, code := s.plugin(append([]string{"audit"}, wrong...)...); code != 2 || !strings.Contains(stderr, wrong[1]) {
			t.Errorf("%q exits with %d and says %s, want to be told of the mistake", wrong, code, stderr)
		}
	}
}

// The viewer's role is what all checks need. Without a part of it, those that need that part
// are left out.
func TestAuditSaysWhatItCouldNotSee(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f)
	s.create(s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	viewer, half := s.ns+"-viewer", s.ns+"-half"
	s.grant(viewer, "capv-static-ip-viewer")
	s.create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: half}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"infrastructure.cluster.x-k8s.io"}, Resources: []string{"vspheremachines"}, Verbs: []string{"list"}},
		{APIGroups: []string{"ipam.cluster.x-k8s.io", "ipam.metal3.io"}, Resources: []string{"*"}, Verbs: []string{"list"}},
	}})
	s.grant(half, half)

	if stdout, stderr, code := s.plugin("audit", "--as", viewer); code != 0 || stderr != "" {
		t.Errorf("with the viewer's role audit exits with %d and prints\n%s\n%s", code, stdout, stderr)
	}
	stdout, stderr, code := s.plugin("audit", "--as", half)
	if code != 3 || !strings.HasPrefix(stdout, "0 errors, 0 warnings in ") {
		t.Errorf("with half of it, audit exits with %d and prints\n%s", code, stdout)
	}
	for _, want := range []string{
		"warning: VSphereVMs cannot be listed: forbidden; what is known of them is left out\n",
		"warning: SIP-001 is left out: it needs VSphereVMs, VSphereClusters, Clusters\n",
		"warning: SIP-011 is left out: it needs MutatingWebhookConfigurations\n",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error is\n%s\nwant in it %s", stderr, want)
		}
	}
	if strings.Contains(stderr, "SIP-002") || strings.Contains(stderr, "SIP-017") {
		t.Errorf("checks were left out that need nothing of that:\n%s", stderr)
	}
	if _, stderr, code := s.plugin("audit", "--as", half, "--checks", "SIP-017"); code != 0 {
		t.Errorf("a check that could be made exits with %d:\n%s", code, stderr)
	}
}

// grant gives a user a ClusterRole.
func (s *scene) grant(user, role string) {
	s.Helper()
	s.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
}
