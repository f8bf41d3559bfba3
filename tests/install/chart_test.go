package install

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const chart = "deploy/chart/capv-static-ip"

// chartArgs are those that render the chart, with values.
func (p project) chartArgs(values string, more ...string) []string {
	p.Helper()
	file := filepath.Join(p.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		p.Fatal(err)
	}
	return append([]string{"template", "capv-static-ip", chart, "--namespace=capv-static-ip-system", "--kube-version=1.36.3", "--values=" + file}, more...)
}

// chart renders the chart with values.
func (p project) chart(values string, more ...string) []*unstructured.Unstructured {
	p.Helper()
	return read(p.T, p.run("helm", p.chartArgs(values, more...)...))
}

// withoutNamespace leaves out what Helm makes by --create-namespace.
func withoutNamespace(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	return slices.DeleteFunc(objects, func(object *unstructured.Unstructured) bool { return object.GetKind() == "Namespace" })
}

func TestHelmInstallsTheSameAsKubectl(t *testing.T) {
	p := newProject(t)
	same(t, p.chart(""), withoutNamespace(read(t, p.run("kustomize", "build", "deploy/default"))))
}

// overlay renders deploy/default with what the text adds, in which DEPLOY is deploy/.
func (p project) overlay(text string) []*unstructured.Unstructured {
	p.Helper()
	dir := p.TempDir()
	deploy, err := filepath.Rel(dir, p.path("deploy"))
	if err != nil {
		p.Fatal(err)
	}
	text = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [DEPLOY/default]\n" + text
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(strings.ReplaceAll(text, "DEPLOY", deploy)), 0o600); err != nil {
		p.Fatal(err)
	}
	return read(p.T, p.run("kustomize", "build", dir))
}

func TestHelmServesOneNamespaceAsKubectlDoes(t *testing.T) {
	p := newProject(t)
	same(t, p.chart("watchNamespace: team-a"), withoutNamespace(p.overlay(`components: [DEPLOY/namespaced]
configMapGenerator:
- name: capv-static-ip-served
  literals: [namespace=team-a]
  options:
    disableNameSuffixHash: true
    annotations: {config.kubernetes.io/local-config: "true"}
`)))
}

func TestHelmBringsMonitoringAsKubectlDoes(t *testing.T) {
	p := newProject(t)
	same(t, p.chart("monitoring: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}"),
		withoutNamespace(p.overlay("components: [DEPLOY/monitoring]\n")))
}

// A manager that serves metrics without TLS is not asked with it.
func TestMonitorAsksAsMetricsAreServed(t *testing.T) {
	p := newProject(t)
	for _, object := range p.chart("{insecureDiagnostics: true, monitoring: {serviceMonitor: {enabled: true}}}") {
		if object.GetKind() != "ServiceMonitor" {
			continue
		}
		endpoints, _, err := unstructured.NestedSlice(object.Object, "spec", "endpoints")
		if err != nil || len(endpoints) != 1 || endpoints[0].(map[string]any)["scheme"] != "http" {
			t.Errorf("it has endpoints %v (error %v)", endpoints, err)
		}
		return
	}
	t.Error("there is no ServiceMonitor")
}

func TestChartIsWellFormed(t *testing.T) {
	p := newProject(t)
	p.run("helm", "lint", "--strict", chart)
}

func TestMistakesInValuesAreRefused(t *testing.T) {
	p := newProject(t)
	for values, want := range map[string]string{
		"replicacount: 3":   "additional properties 'replicacount' not allowed",
		"image: {tags: v1}": "additional properties 'tags' not allowed",
		"rbac: {poolKinds: [{group: x, resource: y}]}": "additional properties 'group' not allowed",
		"syncPeriod: soon":                 "does not match pattern",
		"replicaCount: 0":                  "minimum: got 0, want 1",
		"webhook: {failurePolicy: Ignore}": "additional properties 'failurePolicy' not allowed",
		"certManager: {enabled: false}":    "webhook.caBundle has to say",
		"networkPolicy: {enabled: true}":   "networkPolicy.apiServer has to say",
		"monitoring: {dashboards: {}}":     "additional properties 'dashboards' not allowed",
	} {
		if _, err := p.try("helm", p.chartArgs(values)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", values, err, want)
		}
	}
}

func TestChartWithoutNamespaceIsThatOfTheRelease(t *testing.T) {
	p := newProject(t)
	for _, object := range p.chart("", "--namespace=elsewhere") {
		text, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "capv-static-ip-system") {
			t.Errorf("%s names capv-static-ip-system", title(object))
		}
	}
}
