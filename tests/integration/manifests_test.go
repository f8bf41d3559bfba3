package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/tests/harness"
)

// overlay makes a folder with an overlay on deploy/default, which has these
// components of deploy/ and serves this namespace only, if there is one.
func overlay(t *testing.T, root, namespace string, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	deploy, err := filepath.Rel(dir, filepath.Join(root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- " + deploy + "/default\ncomponents:\n"
	for _, component := range components {
		text += "- " + deploy + "/" + component + "\n"
	}
	if namespace != "" {
		text += "configMapGenerator:\n- name: capv-static-ip-served\n  literals:\n  - namespace=" + namespace +
			"\n  options:\n    disableNameSuffixHash: true\n    annotations:\n      config.kubernetes.io/local-config: \"true\"\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// target is a control plane to which people apply manifests.
type target struct {
	*testing.T
	plane   *harness.ControlPlane
	kubectl string
}

// newTarget starts a control plane that knows the kinds of everything we ship.
func newTarget(t *testing.T) target {
	t.Helper()
	plane, err := harness.Start(t.Context(), harness.Options{WholeStack: true, Progress: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	kubectl, err := plane.Kubectl(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return target{T: t, plane: plane, kubectl: kubectl}
}

// run runs a program in the project's folder and returns what it prints.
func (c target) run(name string, args ...string) []byte {
	c.Helper()
	output, err := c.try(name, args...)
	if err != nil {
		c.Fatal(err)
	}
	return output
}

// try is run for what does not end the test; the error has what was printed.
func (c target) try(name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(c.Context(), name, args...)
	cmd.Dir = c.plane.Root()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.plane.Kubeconfig,
		"CLUSTERCTL_DISABLE_VERSIONCHECK=true", "XDG_CONFIG_HOME="+filepath.Join(c.plane.Dir, "config"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(name), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.Bytes(), nil
}

// apply applies what it is told to, and returns the resourceVersion of each object.
func (c target) apply(args ...string) map[string]string {
	c.Helper()
	output := c.run(c.kubectl, append([]string{"apply", "-o", "json"}, args...)...)
	// A list or, if it would have one item, that.
	var applied struct {
		metav1.PartialObjectMetadata `json:",inline"`

		Items []metav1.PartialObjectMetadata `json:"items"`
	}
	if err := json.Unmarshal(output, &applied); err != nil {
		c.Fatalf("reading what was applied: %v", err)
	}
	if applied.Name != "" {
		applied.Items = append(applied.Items, applied.PartialObjectMetadata)
	}
	versions := map[string]string{}
	for _, object := range applied.Items {
		versions[fmt.Sprintf("%s %s/%s", object.Kind, object.Namespace, object.Name)] = object.ResourceVersion
	}
	if len(versions) == 0 {
		c.Fatalf("apply %v: nothing was applied", args)
	}
	return versions
}

func TestManifestsCanBeAppliedAgain(t *testing.T) {
	t.Parallel()
	c := newTarget(t)
	ctx := t.Context()
	c.run("make", "--silent", "manifests", "IMG=registry.example.org/capv-static-ip:v1")
	if content, err := os.ReadFile(filepath.Join(c.plane.Root(), "dist", "capv-static-ip.yaml")); err != nil ||
		!strings.Contains(string(content), "image: registry.example.org/capv-static-ip:v1\n") {
		t.Errorf("make manifests does not name the image that it was told (error %v)", err)
	}
	if err := c.plane.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}); err != nil {
		t.Fatal(err)
	}
	ways := [][]string{
		{"-f", "dist/capv-static-ip.yaml"},
		{"-k", "deploy/default"},
		{"-k", "deploy/protection"},
		{"-k", "deploy/tenancy"},
		{"-k", "deploy/network-policy"},
		{"-k", overlay(t, c.plane.Root(), "", "client-ca")},
		{"-k", overlay(t, c.plane.Root(), "team-a", "namespaced", "client-ca")},
	}
	for _, way := range ways {
		way = append([]string{"--server-side"}, way...)
		first := c.apply(way...)
		if second := c.apply(way...); !maps.Equal(first, second) {
			t.Errorf("apply %v: the second time changes something:\n%v\nbecame\n%v", way, first, second)
		}
	}

	// Rights that were aggregated meanwhile are the API server's to write: no way of
	// applying takes them back, be it for a moment.
	c.aggregate()
	const pools = "ClusterRole /capv-static-ip-pools"
	for _, way := range [][]string{{"--server-side"}, {"--server-side", "--force-conflicts", "--field-manager=another"}, {}} {
		way = append(way, "-k", "deploy/default")
		first := c.apply(way...)
		if second := c.apply(way...); first[pools] == "" || first[pools] != second[pools] {
			t.Errorf("apply %v: the second time changes %s", way, pools)
		}
		if err := c.aggregated(t.Context()); err != nil {
			t.Errorf("apply %v: %v", way, err)
		}
	}
}

// aggregate grants the manager a right on another kind of pools, and waits until it
// has it.
func (c target) aggregate() {
	c.Helper()
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "ranges", Labels: map[string]string{contract.AggregationLabel: "true"}},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"ipam.example.com"}, Resources: []string{"ranges"}, Verbs: []string{"get"}}},
	}
	if err := c.plane.Client.Create(c.Context(), role); err != nil {
		c.Fatal(err)
	}
	if err := harness.Eventually(c.Context(), harness.Soon, "the right to be aggregated", c.aggregated); err != nil {
		c.Fatal(err)
	}
}

// aggregated tells whether the manager has the right.
func (c target) aggregated(ctx context.Context) error {
	pools := &rbacv1.ClusterRole{}
	if err := c.plane.Client.Get(ctx, client.ObjectKey{Name: "capv-static-ip-pools"}, pools); err != nil || len(pools.Rules) > 0 {
		return err
	}
	return errors.New("the role has no rules")
}

// rendered renders a folder and reads the only object of a type that has the name.
func (c target) rendered(dir string, into client.Object, kind, name string) {
	c.Helper()
	output := c.run(c.kubectl, "kustomize", dir)
	for _, document := range bytes.Split(output, []byte("\n---\n")) {
		var header metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &header); err != nil {
			c.Fatal(err)
		}
		if header.Kind == kind && header.Name == name {
			if err := yaml.UnmarshalStrict(document, into); err != nil {
				c.Fatalf("reading %s %s: %v", kind, name, err)
			}
			return
		}
	}
	c.Fatalf("%s renders no %s %s", dir, kind, name)
}

func TestManifestsFitTogether(t *testing.T) {
	t.Parallel()
	c := newTarget(t)
	deployment, policy := &appsv1.Deployment{}, &networkingv1.NetworkPolicy{}
	c.rendered("deploy/default", deployment, "Deployment", "capv-static-ip-manager")
	container := deployment.Spec.Template.Spec.Containers[0]

	t.Run("the Go runtime knows the limit of its memory", func(t *testing.T) {
		i := slices.IndexFunc(container.Env, func(env corev1.EnvVar) bool { return env.Name == "GOMEMLIMIT" })
		if i < 0 {
			t.Fatal("it does not")
		}
		// The same number, with the suffix that Go writes.
		soft, err := resource.ParseQuantity(strings.TrimSuffix(container.Env[i].Value, "B"))
		if err != nil {
			t.Fatal(err)
		}
		share := float64(soft.Value()) / float64(container.Resources.Limits.Memory().Value())
		if share < 0.8 || share > 0.9 {
			t.Errorf("it is %.2f of the container's, want 0.8 to 0.9", share)
		}
	})
	t.Run("the network policy is for the manager's Pods and ports", func(t *testing.T) {
		c.rendered("deploy/network-policy", policy, "NetworkPolicy", "capv-static-ip-manager")
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil {
			t.Fatal(err)
		}
		if policy.Namespace != deployment.Namespace || selector.Empty() ||
			!selector.Matches(labels.Set(deployment.Spec.Template.Labels)) {
			t.Errorf("it selects %s in %s, and the Pods in %s have %v", selector, policy.Namespace, deployment.Namespace, deployment.Spec.Template.Labels)
		}
		for _, rule := range policy.Spec.Ingress {
			for _, port := range rule.Ports {
				named := func(p corev1.ContainerPort) bool { return p.Name == port.Port.StrVal }
				if len(rule.From) == 0 || !slices.ContainsFunc(container.Ports, named) {
					t.Errorf("it lets %v reach port %s, which is not among %v", rule.From, port.Port, container.Ports)
				}
			}
		}
	})
	t.Run("with a namespace, the rights on what has none are the generated ones", func(t *testing.T) {
		generated, cluster := &rbacv1.ClusterRole{}, &rbacv1.ClusterRole{}
		c.rendered("deploy/default", generated, "ClusterRole", "capv-static-ip-manager")
		dir := overlay(t, c.plane.Root(), "team-a", "namespaced")
		c.rendered(dir, cluster, "ClusterRole", "capv-static-ip-manager-cluster")
		own := slices.IndexFunc(cluster.Rules, func(rule rbacv1.PolicyRule) bool { return slices.Contains(rule.Resources, "namespaces") })
		if own < 0 || !slices.Equal(cluster.Rules[own].ResourceNames, []string{"team-a"}) {
			t.Errorf("of namespaces it may read those of rule %d in %v, want its own alone", own, cluster.Rules)
		}
		if got, want := grants(cluster.Rules, isNoNamespace), grants(generated.Rules, c.hasNoNamespace); !slices.Equal(got, want) {
			t.Errorf("deploy/namespaced/cluster_role.yaml grants\n%s\nwant what deploy/rbac/role.yaml grants:\n%s",
				strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		role := &rbacv1.Role{}
		c.rendered(dir, role, "Role", "capv-static-ip-manager")
		if role.Namespace != "team-a" || !slices.Equal(grants(role.Rules, nil), grants(generated.Rules, nil)) {
			t.Errorf("the Role in %s is not the generated ClusterRole", role.Namespace)
		}
	})
}

func isNoNamespace(of schema.GroupResource) bool {
	return of != schema.GroupResource{Resource: "namespaces"}
}

// hasNoNamespace asks the API server about a resource. A Role gives rights on the
// namespace that it is in.
func (c target) hasNoNamespace(of schema.GroupResource) bool {
	c.Helper()
	if !isNoNamespace(of) {
		return false
	}
	name, _, _ := strings.Cut(of.Resource, "/")
	kind, err := c.plane.Client.RESTMapper().KindFor(schema.GroupVersionResource{Group: of.Group, Resource: name})
	if err != nil {
		c.Fatal(err)
	}
	mapping, err := c.plane.Client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		c.Fatal(err)
	}
	return mapping.Scope.Name() == meta.RESTScopeNameRoot
}

// grants are single rights, in order, on resources that are wanted.
func grants(rules []rbacv1.PolicyRule, want func(schema.GroupResource) bool) []string {
	var all []string
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, name := range rule.Resources {
				if want != nil && !want(schema.GroupResource{Group: group, Resource: name}) {
					continue
				}
				for _, verb := range rule.Verbs {
					all = append(all, verb+" "+name+"."+group)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
