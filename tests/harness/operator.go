package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// capiOperator is the operator of Cluster API, which installs providers. It is none itself.
var capiOperator = provider{
	"cluster-api-operator", "cluster-api-operator", "sigs.k8s.io/cluster-api-operator", "config/default",
	healthAddr, []string{"--profiler-address="},
}

// operatorTakes is a deadline for what the operator does: it looks at what it could not do
// yet every 30 s only.
const operatorTakes = 3 * time.Minute

// Operator is the operator of Cluster API, for which Cluster API is there.
type Operator struct{ *Provider }

// StartOperator starts the operator of Cluster API, under the rights that its own
// manifests grant, with its APIs and webhooks.
func (c *ControlPlane) StartOperator(ctx context.Context) (*Operator, error) {
	definitions, err := c.definitionsOf(ctx, capiOperator)
	if err != nil {
		return nil, err
	}
	if err := c.installCRDs(ctx, definitions); err != nil {
		return nil, err
	}
	started, err := c.startOne(ctx, capiOperator)
	if err != nil {
		return nil, err
	}
	if err := started.InstallWebhooks(ctx); err != nil {
		return nil, err
	}
	operator := &Operator{started}
	return operator, operator.playCore(ctx)
}

// core is a Cluster API. What the operator fetches for it is a namespace.
const core = `
apiVersion: v1
kind: Namespace
metadata: {name: capi-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: v1.13.0, namespace: capi-system, labels: {provider-components: cluster-api}}
data:
  components: |
    apiVersion: v1
    kind: Namespace
    metadata: {name: capi-system}
  metadata: |
    apiVersion: clusterctl.cluster.x-k8s.io/v1alpha3
    kind: Metadata
    releaseSeries: [{major: 1, minor: 13, contract: v1beta2}]
---
apiVersion: operator.cluster.x-k8s.io/v1alpha2
kind: CoreProvider
metadata: {name: cluster-api, namespace: capi-system}
spec:
  version: v1.13.0
  fetchConfig: {selector: {matchLabels: {provider-components: cluster-api}}}
`

// playCore has the operator know of a Cluster API that is ready, before which it
// installs nothing else.
func (o *Operator) playCore(ctx context.Context) error {
	if err := o.Apply(ctx, core); err != nil {
		return err
	}
	if err := o.Installed(ctx, "CoreProvider", "capi-system", "cluster-api", "v1.13.0"); err != nil {
		return err
	}
	return Eventually(ctx, operatorTakes, "Cluster API to count as ready", func(ctx context.Context) error {
		provider, err := o.provider(ctx, "CoreProvider", "capi-system", "cluster-api")
		if err != nil {
			return err
		}
		conditions, _, err := unstructured.NestedSlice(provider.Object, "status", "conditions")
		if err != nil {
			return err
		}
		conditions = append(conditions, map[string]any{
			"type": "Ready", "status": "True", "reason": "Played", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
		})
		if err := unstructured.SetNestedSlice(provider.Object, conditions, "status", "conditions"); err != nil {
			return err
		}
		return o.plane.Client.Status().Update(ctx, provider)
	})
}

// Apply applies the objects of a text. The operator is asked about its own as soon as it
// answers.
func (o *Operator) Apply(ctx context.Context, text string) error {
	objects, err := parse(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("reading what is to be applied: %w", err)
	}
	return Eventually(ctx, operatorTakes, "the operator's objects to be applied", func(ctx context.Context) error { return o.plane.apply(ctx, objects) })
}

// Installed waits until the operator has installed a version of a provider.
func (o *Operator) Installed(ctx context.Context, kind, namespace, name, version string) error {
	return Eventually(ctx, operatorTakes, fmt.Sprintf("%s %s %s to be installed", kind, name, version), func(ctx context.Context) error {
		provider, err := o.provider(ctx, kind, namespace, name)
		if err != nil {
			return err
		}
		if got, _, err := unstructured.NestedString(provider.Object, "status", "installedVersion"); err != nil || got != version {
			return errors.Join(err, fmt.Errorf("it is %q; status %v", got, provider.Object["status"]))
		}
		return nil
	})
}

func (o *Operator) provider(ctx context.Context, kind, namespace, name string) (*unstructured.Unstructured, error) {
	provider := &unstructured.Unstructured{}
	provider.SetGroupVersionKind(schema.GroupVersionKind{Group: "operator.cluster.x-k8s.io", Version: "v1alpha2", Kind: kind})
	return provider, o.plane.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, provider)
}
