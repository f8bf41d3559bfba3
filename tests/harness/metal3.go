package harness

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Metal3Options says how the provider runs.
type Metal3Options struct {
	// Throttled keeps metal3's own limit of 20 requests a second, which makes
	// it bind about ten claims a second. The default here is no limit.
	Throttled bool
	// WithoutWebhooks leaves metal3's webhooks out, so that a claim can be made
	// while the provider does not run.
	WithoutWebhooks bool
}

// Metal3 is the real metal3 IP Address Manager. Stop and Start work as on any
// process; while it is stopped, its webhooks refuse to make claims and pools.
type Metal3 struct{ *Provider }

// StartMetal3 starts metal3's manager under the rights that its own manifests
// grant, and installs its webhooks.
func (c *ControlPlane) StartMetal3(ctx context.Context, options Metal3Options) (*Metal3, error) {
	var args []string
	if !options.Throttled {
		args = []string{"--kube-api-qps=1000", "--kube-api-burst=2000"}
	}
	started, err := c.startWithoutWebhooks(ctx, metal3IPAM, args...)
	if err != nil {
		return nil, err
	}
	started.probe = Claim(metav1.NamespaceDefault, "probe", DefaultPool)
	metal3 := &Metal3{started}
	if options.WithoutWebhooks {
		return metal3, nil
	}
	return metal3, metal3.InstallWebhooks(ctx)
}
