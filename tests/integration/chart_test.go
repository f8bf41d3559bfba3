package integration

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/tests/programs"
)

// chartValues has each value of the chart that is not its default at least once.
var chartValues = map[string]string{
	"image": "image: {registry: r.example.org/a, repository: b, tag: v2, digest: 'sha256:" +
		"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', pullPolicy: Always}\nimagePullSecrets: [{name: pull}]",
	"pods": `replicaCount: 3
resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}
goMemoryLimit: 1740MiB
nodeSelector: {role: mgmt}
tolerations: []
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}}]
priorityClassName: mine
podAnnotations: {a: b}
podLabels: {c: d}`,
	"account":       "serviceAccount: {create: true, name: other, annotations: {a: b}}",
	"no account":    "serviceAccount: {create: false, name: other}",
	"flags":         "logLevel: 4\nlogFormat: json\ndiagnosticsAddress: ':8080'\ninsecureDiagnostics: true\nsyncPeriod: 1m\norphanGracePeriod: 2m\nreuseAfter: 3m\nextraArgs: [--kube-api-qps=50]\nextraEnv: [{name: A, value: b}]",
	"host network":  "hostNetwork: true\nwebhook: {port: 10443, timeoutSeconds: 20, annotations: {a: b}}",
	"own issuer":    "certManager: {issuerRef: {group: cert-manager.io, kind: ClusterIssuer, name: corp}, duration: 48h, renewBefore: 24h}",
	"no issuer":     "certManager: {enabled: false}\nwebhook: {caBundle: Cg==, certSecret: mine}",
	"network":       "networkPolicy: {enabled: true, apiServer: [{ipBlock: {cidr: 10.0.0.1/32}}], metrics: []}",
	"no budget":     "podDisruptionBudget: {enabled: false}",
	"no warnings":   "capacityWarnings: {enabled: false}",
	"pool kinds":    "rbac: {poolKinds: [{apiGroup: ipam.example.com, resource: ranges}]}",
	"dashboard":     "monitoring: {dashboard: {enabled: true}}",
	"one namespace": "watchNamespace: team-a",
	"elsewhere":     "namespaceOverride: team-a",
}

// builtHelm is the path of helm.
func builtHelm(t *testing.T) string {
	t.Helper()
	builder, err := programs.NewBuilder(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	helm, err := builder.Path(t.Context(), "helm")
	if err != nil {
		t.Fatal(err)
	}
	return helm
}

// The API server knows of every field whether it is one.
func TestChartWithOtherValuesIsAccepted(t *testing.T) {
	t.Parallel()
	c := newTarget(t)
	helm := builtHelm(t)
	for _, name := range []string{"capv-static-ip-system", "team-a"} {
		if err := c.plane.Client.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, values := range chartValues {
		dir := t.TempDir()
		file, rendered := filepath.Join(dir, "values.yaml"), filepath.Join(dir, "rendered.yaml")
		if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
			t.Fatal(err)
		}
		text := c.run(helm, "template", "x", "deploy/chart/capv-static-ip", "--namespace=capv-static-ip-system", "--kube-version=1.36.3", "--values="+file)
		if err := os.WriteFile(rendered, text, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		c.run(c.kubectl, "apply", "--server-side", "--force-conflicts", "--validate=strict", "--dry-run=server", "-f", rendered)
	}
}

func TestHelmInstallsAndUpgradesWhatKubectlInstalled(t *testing.T) {
	t.Parallel()
	c := newTarget(t)
	helm := builtHelm(t)
	c.apply("--server-side", "-k", "deploy/default")
	args := []string{"upgrade", "--install", "capv-static-ip", "deploy/chart/capv-static-ip", "--namespace=capv-static-ip-system", "--take-ownership", "--force-conflicts"}
	c.run(helm, args...)
	c.run(helm, append(args, "--set=logLevel=2")...)
	c.run(helm, "uninstall", "capv-static-ip", "--namespace=capv-static-ip-system")
}

func TestHelmInstallsWhatManagersNeed(t *testing.T) {
	t.Parallel()
	c := newBareTarget(t)
	helm := builtHelm(t)
	c.run(helm, "install", "capv-static-ip", "deploy/chart/capv-static-ip", "--namespace=capv-static-ip-system", "--create-namespace")
	everythingWorks(t, installed(c))
}
