package inventory

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

const asWritten = `
apiVersion: infrastructure.cluster.x-k8s.io/v1beta2
kind: VSphereMachineTemplate
metadata: {name: t, namespace: ns}
spec:
  template:
    metadata: {annotations: {pools.capv-static-ip.dev/0: dkp}}
    spec: {server: vc.example.com, network: {devices: [{networkName: VM Network}]}}
---
apiVersion: cluster.x-k8s.io/v1beta2
kind: MachineDeployment
metadata: {name: md, namespace: ns}
spec:
  clusterName: dkp
  replicas: 3
  rollout: {strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 2}}}
  template:
    metadata: {labels: {a: b}}
    spec: {version: v1.33.0, failureDomain: a, infrastructureRef: {name: t}, bootstrap: {configRef: {name: x}}}
status: {replicas: 3}
---
apiVersion: cluster.x-k8s.io/v1beta1
kind: MachineDeployment
metadata: {name: md, namespace: ns}
spec:
  clusterName: dkp
  strategy: {type: OnDelete}
  template: {spec: {infrastructureRef: {name: t}}}
---
apiVersion: controlplane.cluster.x-k8s.io/v1beta2
kind: KubeadmControlPlane
metadata: {name: cp, namespace: ns, labels: {cluster.x-k8s.io/cluster-name: dkp}}
spec:
  replicas: 3
  version: v1.33.0
  kubeadmConfigSpec: {files: [{path: /a, content: long}]}
  rollout: {strategy: {rollingUpdate: {maxSurge: 0}}}
  machineTemplate: {metadata: {annotations: {a: b}}, spec: {infrastructureRef: {name: t}}}
---
apiVersion: controlplane.cluster.x-k8s.io/v1beta1
kind: KubeadmControlPlane
metadata: {name: cp, namespace: ns}
spec:
  rolloutStrategy: {rollingUpdate: {maxSurge: 0}}
  machineTemplate: {infrastructureRef: {name: t}}
`

// known is what is known of an object that makes machines of a template.
func known(t *testing.T, object, template *unstructured.Unstructured) Workload {
	t.Helper()
	g := &Graph{makers: newMakers(), Templates: map[types.NamespacedName]*unstructured.Unstructured{{Namespace: "ns", Name: "t"}: template}}
	w := *g.Workload(object)
	if w.AsksError != nil || w.Template != "t" {
		t.Fatalf("it has the template %q, error %v", w.Template, w.AsksError)
	}
	w.Unstructured = nil
	return w
}

func TestSlimWorkloadsTellTheSame(t *testing.T) {
	var objects []*unstructured.Unstructured
	for text := range strings.SplitSeq(asWritten, "\n---\n") {
		object := &unstructured.Unstructured{}
		content, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := object.UnmarshalJSON(content); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
	}
	template := objects[0].DeepCopy()
	Slim(template)
	for _, object := range objects[1:] {
		slim := object.DeepCopy()
		Slim(slim)
		if got, want := known(t, slim, template), known(t, object, objects[0]); !reflect.DeepEqual(got, want) {
			t.Errorf("of a slim %s is known\n%+v, of the whole\n%+v", object.GroupVersionKind(), got, want)
		}
		if text, _ := slim.MarshalJSON(); strings.Contains(string(text), "status") || strings.Contains(string(text), "files") {
			t.Errorf("a slim %s is %s", object.GetKind(), text)
		}
	}
	if domain := first(objects[1], "spec.template.spec.failureDomain"); domain != "a" {
		t.Errorf("the failure domain is %q", domain)
	}
}
