package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// Cluster API does not look again, between two machines of one scale-up, whether
// their Cluster is paused.
func TestClusterThatIsPausedInAScaleUpGetsAllItsMachinesLater(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) {
		s := newScene(t, shared)
		const replicas = 12
		gate := s.gate(3)
		template := s.template("workers", by.Ask("workers"))
		workers := s.workers(template, "md-paused", replicas)
		s.create(s.pool(by, "workers", 10, 10+replicas, movable(by)...), template, workers)
		s.eventually(provisioned, "some machines", gate.isReached)

		cluster := &clusterv1.Cluster{}
		cluster.Namespace, cluster.Name = s.ns, harness.DefaultCluster
		s.get(cluster)
		patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = new(true) })
		gate.open()
		s.eventually(harness.Soon, "the next machine to be refused", func(ctx context.Context) error {
			return s.refused(ctx, "is paused, so that")
		})
		s.step("paused")
		patch(s, cluster, func(cluster *clusterv1.Cluster) { cluster.Spec.Paused = nil })

		s.nodes(workers)
	})
}

// gate is somebody else's webhook that lets some machines of a scene through, and holds
// the next ones until it is opened.
type gate struct {
	opened chan struct{}
	open   func()

	mu     sync.Mutex
	called bool
	// free are let through, and asked have come.
	free, asked int
}

// gate stands before the machines of the scene when it returns, until the test ends.
func (s *scene) gate(free int) *gate {
	s.Helper()
	g := &gate{opened: make(chan struct{}), free: free}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	handler, err := admission.StandaloneWebhook(&admission.Webhook{Handler: g}, admission.StandaloneOptions{})
	if err != nil {
		s.Fatal(err)
	}
	server := httptest.NewTLSServer(handler)
	s.Cleanup(server.Close)
	// It waits for whom the gate still holds.
	s.Cleanup(g.open)
	configuration := gateConfiguration(s.ns, server)
	s.create(configuration)
	s.Cleanup(func() {
		if err := s.stack.Plane.Client.Delete(context.Background(), configuration); err != nil {
			s.Error(err)
		}
	})
	s.eventually(harness.Soon, "the API server to call the other webhook", func(ctx context.Context) error {
		probe := harness.Machine(s.ns, "probe", harness.WithDevices(harness.DHCPDevice()))
		if err := s.stack.Plane.Client.Create(ctx, probe, client.DryRunAll); err != nil {
			return err
		}
		return g.isCalled()
	})
	return g
}

func gateConfiguration(ns string, server *httptest.Server) *admissionregistrationv1.ValidatingWebhookConfiguration {
	rule := admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule: admissionregistrationv1.Rule{
			APIGroups: []string{capvv1.GroupVersion.Group}, APIVersions: []string{capvv1.GroupVersion.Version}, Resources: []string{"vspheremachines"},
		},
	}
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "gate-" + ns},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:                    "gate.example.org",
			Rules:                   []admissionregistrationv1.RuleWithOperations{rule},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
			ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: new(server.URL), CABundle: harness.CertificatePEM(server.Certificate())},
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			TimeoutSeconds:          new(int32(30)),
		}},
	}
}

// Handle implements admission.Handler.
func (g *gate) Handle(ctx context.Context, req admission.Request) admission.Response {
	if !g.passes(req.DryRun != nil && *req.DryRun) {
		select {
		case <-g.opened:
		case <-ctx.Done():
		}
	}
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: true}}
}

// passes tells whether a machine is one of those that are let through.
func (g *gate) passes(probe bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.called = true
	if probe {
		return true
	}
	g.asked++
	return g.asked <= g.free
}

func (g *gate) isCalled() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.called {
		return errors.New("it is not called")
	}
	return nil
}

// isReached returns an error until a machine is held.
func (g *gate) isReached(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asked <= g.free {
		return fmt.Errorf("%d of %d have passed", g.asked, g.free)
	}
	return nil
}
