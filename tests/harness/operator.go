package harness

import "context"

// capiOperator is the operator of Cluster API, which installs providers. It is none itself.
var capiOperator = provider{
	"cluster-api-operator", "cluster-api-operator", "sigs.k8s.io/cluster-api-operator", "config/default",
	healthAddr, []string{"--profiler-address="},
}

// StartOperator starts the operator of Cluster API, under the rights that its own
// manifests grant, with its APIs and webhooks.
func (c *ControlPlane) StartOperator(ctx context.Context) (*Provider, error) {
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
	return started, started.InstallWebhooks(ctx)
}
