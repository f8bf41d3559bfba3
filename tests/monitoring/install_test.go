package monitoring

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/docs"
)

// installed are the objects that the overlay of the page on monitoring renders to, as
// YAML, by kind and name.
func installed(t *testing.T) map[string]string {
	t.Helper()
	page, err := docs.Read(root, "docs/operate/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var overlay string
	for _, block := range page.Blocks("yaml") {
		if strings.Contains(block, "kind: Kustomization\n") {
			overlay = block
		}
	}
	dir := t.TempDir()
	here, err := filepath.Abs(filepath.Join(root, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	deploy, err := filepath.Rel(dir, here)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(strings.ReplaceAll(overlay, "../deploy", deploy)), 0o600); err != nil {
		t.Fatal(err)
	}
	objects := map[string]string{}
	for document := range strings.SplitSeq(run(t, nil, "kustomize", "build", dir), "\n---\n") {
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		decode(t, document, &head)
		objects[head.Kind+"/"+head.Metadata.Name] = document
	}
	return objects
}

func decode(t *testing.T, document string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(document), into); err != nil {
		t.Fatal(err)
	}
}

func TestMonitorLeadsToTheMetricsOfTheManagersPods(t *testing.T) {
	objects := installed(t)
	var monitor struct {
		Spec struct {
			Selector  struct{ MatchLabels map[string]string } `json:"selector"`
			Endpoints []struct{ Port string }                 `json:"endpoints"`
		} `json:"spec"`
	}
	var deployment appsv1.Deployment
	decode(t, objects["ServiceMonitor/capv-static-ip"], &monitor)
	decode(t, objects["Deployment/capv-static-ip-manager"], &deployment)
	pods := labels.Set(deployment.Spec.Template.Labels)
	ports := map[string]bool{}
	for _, port := range deployment.Spec.Template.Spec.Containers[0].Ports {
		ports[port.Name] = true
	}
	var found []string
	for key, document := range objects {
		if !strings.HasPrefix(key, "Service/") {
			continue
		}
		var service corev1.Service
		decode(t, document, &service)
		if !labels.SelectorFromSet(monitor.Spec.Selector.MatchLabels).Matches(labels.Set(service.Labels)) {
			continue
		}
		found = append(found, service.Name)
		port := service.Spec.Ports[0]
		if port.Name != monitor.Spec.Endpoints[0].Port || !ports[port.TargetPort.String()] {
			t.Errorf("the monitor asks port %q, the Service has %q, which leads to %q", monitor.Spec.Endpoints[0].Port, port.Name, port.TargetPort.String())
		}
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(pods) {
			t.Errorf("the Service selects %v, the Pods have %v", service.Spec.Selector, pods)
		}
	}
	if len(found) != 1 {
		t.Errorf("the monitor selects the Services %q, want one", found)
	}
}

func TestDashboardIsInAConfigMapThatGrafanaFinds(t *testing.T) {
	var config corev1.ConfigMap
	decode(t, installed(t)["ConfigMap/capv-static-ip-dashboard"], &config)
	content, err := os.ReadFile(filepath.Join(root, Dir, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	if config.Labels["grafana_dashboard"] != "1" || config.Data["capv-static-ip.json"] != string(content) {
		t.Errorf("it has the labels %v and %d bytes, want %d", config.Labels, len(config.Data["capv-static-ip.json"]), len(content))
	}
}
