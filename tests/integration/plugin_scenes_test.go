package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

var updateGolden = flag.Bool("update", false, "write what the plugin prints into testdata/plugin")

// golden checks all that the plugin prints, and its exit code, against a file. What it
// prints settles: controllers are at work.
func (s *scene) golden(name string, code int, args ...string) {
	s.Helper()
	s.goldenAfter(func() {}, name, code, args...)
}

// goldenAfter is golden where something has to be done before each look.
func (s *scene) goldenAfter(before func(), name string, code int, args ...string) {
	s.Helper()
	path := filepath.Join("testdata", "plugin", name+".txt")
	want, err := os.ReadFile(path)
	if err != nil && !*updateGolden {
		s.Fatal(err)
	}
	err = harness.Eventually(s.Context(), harness.Soon, "kubectl static-ip to print "+path, func(context.Context) error {
		before()
		stdout, stderr, got := s.plugin(args...)
		text := s.stable(fmt.Sprintf("$ kubectl static-ip %s\n%s%s", strings.Join(args, " "), stdout, stderr))
		if *updateGolden {
			want = []byte(text)
		}
		if text != string(want) || got != code {
			return fmt.Errorf("it exits with %d and prints\n%s\nwant %d and\n%s", got, text, code, want)
		}
		return nil
	})
	if err != nil {
		s.Error(err)
	}
	if *updateGolden {
		if err := os.WriteFile(path, want, 0o600); err != nil {
			s.Fatal(err)
		}
	}
}

// ofControlPlane puts a machine among those of a control plane, as Cluster API does.
func ofControlPlane(name string) harness.Option {
	return harness.WithLabel(clusterv1.MachineControlPlaneNameLabel, name)
}

func TestPluginTellsOfAFullPool(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	// All pools that have an address are told of: nobody else's have these.
	s.pool(f, harness.WithRange("10.16.66.88", "10.16.66.89"), harness.WithGateway("10.16.66.1"), harness.WithNameservers("10.16.66.2"), harness.WithSearchDomains("example.org"))
	template := harness.Template(s.ns, "cp-v3", f.Ask(f.PoolName))
	owner := harness.ControlPlaneOwner(s.ns, "cp", template.Name)
	s.create(template, owner)
	s.create(harness.Clone(template, "cp-0", ofControlPlane("cp")))
	s.create(harness.Clone(template, "cp-1", ofControlPlane("cp")))
	s.eventually("the addresses to be adopted", s.adopted("cp-0", "cp-1"))
	byHand := harness.Machine(s.ns, "lb-old", harness.WithDevices(harness.FixedDevice("10.16.66.89/24")))
	s.create(byHand)
	// It is made to try again, after longer and longer pauses.
	refuse := func() {
		s.eventually("the refusal on its owner", func(ctx context.Context) error {
			s.refused(harness.Clone(template, "cp-x7k2p", harness.WithOwner(owner)), "is exhausted")
			if err := s.env.Client.Get(ctx, s.key("cp"), owner); err != nil || owner.GetAnnotations()[ipam.RefusedByAnnotation] != "" {
				return err
			}
			return errors.New("it has none")
		})
	}

	s.goldenAfter(refuse, "pool", 0, "pool", "dkp-cluster", "--grid")
	s.golden("machines", 0, "machines")
	s.golden("who", 1, "who", "10.16.66.89", "10.16.66.88")
	s.golden("explain_machine", 0, "explain", "vspheremachine/cp-0")
	s.goldenAfter(refuse, "explain_control_plane", 1, "explain", "kubeadmcontrolplane/cp")
	s.goldenAfter(refuse, "pools", 0, "pools")
	s.golden("capacity", 1, "capacity", "--check")
	s.golden("explain_claim", 0, "explain", "ipclaim/cp-0-0")
	s.golden("pool_missing", 1, "pool", "nowhere")
	s.golden("who_nothing", 2, "who", "nobody")
	s.printsForPrograms()
	s.printsAsToldTo()
	s.delete(byHand)
	s.delete(owner)
}

// printsAsToldTo checks the forms that kubectl's printers have.
func (s *scene) printsAsToldTo() {
	s.Helper()
	for _, test := range []struct{ output, want string }{
		{"name", "pool.cli.capv-static-ip.dev/dkp-cluster\n"},
		{"jsonpath={.items[0].used}", "2"},
		{"go-template={{range .items}}{{.pool}}{{end}}", "IPPool/dkp-cluster"},
		{"custom-columns=NAME:.metadata.name,USED:.used,NOTHING:{.nothing}", "NAME  USED  NOTHING\ndkp-cluster  2  <none>\n"},
	} {
		if stdout, stderr, code := s.plugin("pools", "-o", test.output); stdout != test.want || code != 0 {
			s.Errorf("-o %s exits with %d and prints %q %q, want %q", test.output, code, stdout, stderr, test.want)
		}
	}
	if stdout, _, _ := s.plugin("explain", "vspheremachine/cp-0", "-o", "jsonpath={.items[*].kind} {.items[*].wrong}"); stdout != "Explanation false" {
		s.Errorf("a story is %q, want an Explanation of nothing wrong", stdout)
	}
	if stdout, _, _ := s.plugin("__complete", "pool", ""); !strings.HasPrefix(stdout, "IPPool/dkp-cluster\n") {
		s.Errorf("the names of pools are completed to %q", stdout)
	}
}

func TestPluginTellsOfPoolsOfAllSizes(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 175), coolsFor(time.Hour))
	s.create(harness.InClusterPool(s.ns, harness.InClusterNamed("v6"), harness.InClusterAddresses("fd00::/64"),
		harness.InClusterField(int64(64), "prefix"), harness.InClusterField("fd00::1", "gateway")))
	// Who uses a pool of all namespaces from another one counts, too.
	name, other := "shared-"+s.ns, newScene(t, shared)
	s.createGlobal(harness.GlobalInClusterPool(name, harness.InClusterAddresses("10.18.0.0/16"),
		harness.InClusterField(int64(16), "prefix"), harness.InClusterField("10.18.0.1", "gateway")))
	claim := harness.AddressClaim(other.ns, "elsewhere", harness.GlobalInClusterPoolKind, name)
	other.create(claim)
	other.bind(claim)
	template := harness.Template(s.ns, "md", f.Ask(f.PoolName))
	deployment := harness.MachineDeployment(s.ns, "md-0", template.Name, "80%")
	s.create(template, deployment)
	machine := harness.Clone(template, "md-0-a", harness.WithLabel(clusterv1.MachineDeploymentNameLabel, "md-0"))
	gone := harness.Clone(template, "md-0-b", harness.WithLabel(clusterv1.MachineDeploymentNameLabel, "md-0"))
	s.create(machine, gone)
	s.eventually("the addresses to be adopted", s.adopted("md-0-a", "md-0-b"))
	s.delete(gone)
	s.gone(gone)

	s.golden("pools_wide", 0, "pools", "-o", "wide")
	s.golden("pools_bare", 0, "pools", "--no-headers")
	s.golden("explain_deployment", 0, "explain", "md/md-0")
	s.golden("explain_cooling", 0, "explain", "ipaddressclaim/md-0-b-0")
	other.delete(claim)
	other.gone(claim)
}

func TestPluginTellsWhatWasNearlyRight(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88))
	template := harness.Template(s.ns, "md-1")
	deployment := harness.MachineDeployment(s.ns, "md-1", template.Name, "1", f.Ask(f.PoolName))
	s.create(template, deployment)
	wrong := s.stored(harness.Clone(template, "md-1-abcde", harness.WithLabel(clusterv1.MachineDeploymentNameLabel, "md-1"),
		harness.WithAnnotation("pool.capv-static-ip.dev/0", "dkp-cluster")))

	s.golden("explain_near_miss", 1, "explain", "vspheremachine/md-1-abcde")
	s.golden("explain_deployment_near_miss", 1, "explain", "machinedeployment/md-1")
	s.golden("machines_waiting", 0, "machines")

	elsewhere := s.stored(harness.Machine(s.ns, "elsewhere", withPoolOf("0", "InClusterIPPool/dkp-cluster")))
	s.golden("explain_other_kind", 1, "explain", "machine/elsewhere")
	s.isDone(wrong)
	s.isDone(elsewhere)
}

func TestPluginTellsWhatAStoredMachineWaitsFor(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.create(harness.Cluster(s.ns, harness.DefaultCluster), f.Pool(s.ns, f.WithIPs(88, 88), harness.WithAnnotation(ipam.UsedByAnnotation, "somebody")))
	refused := s.stored(s.asks(f, "refused"))
	late := s.asks(f, "late", harness.WithProviderID("vsphere://x"))
	s.create(late)

	s.golden("explain_refused", 1, "explain", "vspheremachine/refused")
	s.golden("explain_too_late", 1, "explain", "vspheremachine/late")
	s.golden("explain_pool", 0, "explain", "ippool/dkp-cluster")
	s.isDone(refused)
	s.delete(late)
}

func TestPluginTellsOfAnEndpoint(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	// An endpoint is one of all namespaces: no other scene has this one.
	s.vips(f, 247, 247)
	s.create(harness.Cluster(s.ns, "prod"), harness.VSphereCluster(s.ns, "prod", endpointOf(f)), harness.VSphereCluster(s.ns, "silent"))
	s.eventually("the endpoint to be held", func(context.Context) error { return s.endpointIsHeld("prod", f.IP(247)) })

	s.golden("explain_endpoint", 0, "explain", "vspherecluster/prod")
	s.golden("explain_cluster", 0, "explain", "cluster/prod")
	s.golden("explain_no_endpoint", 0, "explain", "vspherecluster/silent")
}

// viewerRole makes a role of this name of what the viewer's allows, but for a resource, which
// may be empty.
func (s *scene) viewerRole(name, without string) *rbacv1.ClusterRole {
	s.Helper()
	shipped := &rbacv1.ClusterRole{}
	if err := s.env.Client.Get(s.Context(), client.ObjectKey{Name: "capv-static-ip-viewer"}, shipped); err != nil {
		s.Fatal(err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: shipped.Rules}
	for i, rule := range role.Rules {
		role.Rules[i].Resources = slices.DeleteFunc(rule.Resources, func(resource string) bool { return resource == without })
	}
	s.createGlobal(role)
	return role
}

// bindViewer lets a user of this name see what the viewer's role allows, but for a resource.
func (s *scene) bindViewer(user, without string) {
	s.Helper()
	role := s.viewerRole(user, without)
	s.createGlobal(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
}

func TestPluginIsContentWithTheViewersRole(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 175))
	template := harness.Template(s.ns, "md", f.Ask(f.PoolName))
	s.create(s.asks(f, "cp-0"), template, harness.MachineDeployment(s.ns, "md-0", template.Name, "1"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	s.bindViewer("viewer-"+s.ns, "")
	s.bindViewer("half-viewer-"+s.ns, "vspherevms")

	for _, args := range [][]string{{"pools"}, {"machines"}, {"who", f.IP(170)}, {"explain", "vspheremachine/cp-0"}, {"capacity"}} {
		if stdout, stderr, code := s.plugin(append(args, "--as", "viewer-"+s.ns)...); code != 0 || stderr != "" {
			t.Errorf("for a viewer %v exits with %d and prints\n%s%s", args, code, stdout, stderr)
		}
	}
	s.golden("rights", 3, "pools", "--as", "half-viewer-"+s.ns)
}

func TestPluginLooksAtOneNamespaceWhereItMaySeeNoOther(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88))
	s.create(s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	user := "tenant-" + s.ns
	s.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.viewerRole(user, "").Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})

	stdout, stderr, code := s.plugin("who", f.IP(88), "--as", user)

	if code != 3 || !strings.Contains(stdout, "used by VSphereMachine NAMESPACE/cp-0") || !strings.Contains(stderr, "other namespaces cannot be listed: forbidden") {
		t.Errorf("it exits with %d and prints\n%s%s", code, stdout, stderr)
	}
}

func TestPluginShowsPoolsAgainWhenTheyChange(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 89), moves)
	output, stop := s.pluginWatches("pools", "-w")
	shows := func(line string) func(context.Context) error {
		return func(context.Context) error {
			if text := s.stable(output.String()); !strings.Contains(text, line) {
				return errors.New(text)
			}
			return nil
		}
	}
	s.eventually("the pool to be shown", shows("IPPool/dkp-cluster  2  0  0  2  0  OK\n"))

	s.create(s.asks(f, "cp-0"))

	s.eventually("the pool to be shown again", shows("IPPool/dkp-cluster  2  1  0  1  0  OK\n"))
	if code := stop(); code != 0 || strings.Count(output.String(), "NAMESPACE") != 1 {
		t.Errorf("it ends with %d and has printed\n%s", code, output)
	}
}
