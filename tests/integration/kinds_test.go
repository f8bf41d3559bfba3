package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

const (
	claimsCRD        = "ipaddressclaims.ipam.cluster.x-k8s.io"
	addressesCRD     = "ipaddresses.ipam.cluster.x-k8s.io"
	machinesCRD      = "vspheremachines.infrastructure.cluster.x-k8s.io"
	vmsCRD           = "vspherevms.infrastructure.cluster.x-k8s.io"
	clustersCRD      = "clusters.cluster.x-k8s.io"
	controlPlanesCRD = "kubeadmcontrolplanes.controlplane.cluster.x-k8s.io"
	oldVersion       = "v1beta1"
	newVersion       = "v1beta2"

	inClusterPoolsCRD = "inclusterippools.ipam.cluster.x-k8s.io"
	inClusterVersion  = "v1alpha2"
)

// missingKinds is what the log says of kinds that have no CRD.
var missingKinds = regexp.MustCompile(`"Kinds are not served: .*`)

// The version of a kind is chosen at start. When an upgrade of Cluster API drops
// it, whoever uses it has to be started again, which a Deployment does.
func TestManagersEndWhenTheirVersionOfTheClaimAPIIsDropped(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true, ClaimVersion: oldVersion}, 2)
	s := newScene(t, env)
	pids := env.pids()

	for _, crd := range []string{claimsCRD, addressesCRD} {
		s.serve(crd, newVersion, true)
	}
	s.consistently("the managers go on", func(ctx context.Context) error {
		if now := env.pids(); fmt.Sprint(now) != fmt.Sprint(pids) {
			return fmt.Errorf("their processes are %v, were %v", now, pids)
		}
		return errors.Join(env.managers[0].Ready(ctx), env.managers[1].Ready(ctx))
	})
	for _, manager := range env.managers {
		s.eventually(manager.Name+" to say once what is missing", func(context.Context) error {
			log, err := os.ReadFile(manager.LogPath)
			if lines := missingKinds.FindAllString(string(log), -1); err == nil && (len(lines) != 1 || !strings.Contains(lines[0], "IPPool.ipam.metal3.io")) {
				err = fmt.Errorf("its log says %q", lines)
			}
			return err
		})
	}
	for _, crd := range []string{claimsCRD, addressesCRD} {
		s.serve(crd, oldVersion, false)
	}

	for _, manager := range env.managers {
		s.eventually(manager.Name+" to end", func(context.Context) error {
			if manager.Running() {
				return errors.New("it is running")
			}
			return nil
		})
		if log := manager.LogTail(5); !strings.Contains(log, "is served in version v1beta2 and not in v1beta1") {
			t.Errorf("the end of its log does not say why:\n%s", log)
		}
		if err := manager.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.inClusterPool()
	s.create(s.inClusterMachine("cp-0"))
	s.settled("cp-0")
}

func TestReadinessNeedsOnlyWhatAdmissionReads(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{}, 0)
	s := newScene(t, env)
	s.create(harness.Pool(s.ns))

	t.Run("not the conversion of what is stored as it is read", func(t *testing.T) {
		s := s.in(t)
		if os.Getenv("OLD_CAPV") != "" {
			t.Skip("this CAPV has one version, which nobody converts")
		}
		s.create(harness.Machine(s.ns, "stored", harness.WithDevices(harness.DHCPDevice())))
		for _, crd := range []string{machinesCRD, vmsCRD, clustersCRD} {
			s.changeCRD(crd, breakConversion)
		}
		s.eventually("the conversion to fail", func(ctx context.Context) error {
			older := s.older(harness.Machine(s.ns, "stored"))
			if err := env.Client.Get(ctx, client.ObjectKeyFromObject(older), older); err == nil {
				return errors.New("a machine can be read in the older version")
			}
			return nil
		})
		s.servesAMachine("as-stored", harness.ManagerOptions{})
	})
	t.Run("not a kind whose conversion fails", func(t *testing.T) {
		s := s.in(t)
		s.changeCRD(controlPlanesCRD, func(spec *apiextensionsv1.CustomResourceDefinitionSpec) {
			for i := range spec.Versions {
				spec.Versions[i].Storage = spec.Versions[i].Name == oldVersion
			}
			breakConversion(spec)
		})
		tries := 0
		s.eventually("the kind to be broken", func(ctx context.Context) error {
			// The API server takes a moment to store in the other version.
			tries++
			owner := harness.ControlPlaneOwner(s.ns, fmt.Sprintf("cp-%d", tries), "cp")
			stored := owner.DeepCopy()
			stored.SetAPIVersion("controlplane.cluster.x-k8s.io/" + oldVersion)
			stored.Object["spec"] = map[string]any{
				"version": "v1.36.3", "kubeadmConfigSpec": map[string]any{},
				"machineTemplate": map[string]any{"infrastructureRef": map[string]any{"name": "cp"}},
			}
			if err := env.Client.Create(ctx, stored); err != nil {
				return err
			}
			if err := env.Client.Get(ctx, client.ObjectKeyFromObject(owner), owner); err == nil {
				return errors.New("it can be read")
			}
			return nil
		})
		s.servesAMachine("broken", harness.ManagerOptions{})
	})
	t.Run("not a version that is not served", func(t *testing.T) {
		s := s.in(t)
		s.serve(inClusterPoolsCRD, inClusterVersion, false)
		manager := s.servesAMachine("missing", harness.ManagerOptions{})
		log, err := os.ReadFile(manager.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		const said = `"Kind is not served in the version that is used here`
		if count := strings.Count(string(log), said); count != 1 {
			t.Errorf("its log says %d times that the version is missing, want once", count)
		}
		s.serve(inClusterPoolsCRD, inClusterVersion, true)
		s.eventually("the kind to be watched", func(context.Context) error {
			log, err := os.ReadFile(manager.LogPath)
			watching := regexp.MustCompile(`"Watching a kind".*kind="InClusterIPPool\.`)
			if err == nil && !watching.Match(log) {
				err = errors.New("its log does not say so")
			}
			return err
		})
	})
}

// breakConversion makes a CRD one whose conversion webhook cannot be called.
func breakConversion(spec *apiextensionsv1.CustomResourceDefinitionSpec) {
	nowhere := "https://127.0.0.1:1/convert"
	spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: &nowhere},
			ConversionReviewVersions: []string{"v1"},
		},
	}
}

// in is the same scene for a part of its test.
func (s *scene) in(t *testing.T) *scene {
	part := *s
	part.T = t
	return &part
}

// servesAMachine starts a manager, which must become ready, and has it admit a
// machine. The manager ends with the test.
func (s *scene) servesAMachine(name string, options harness.ManagerOptions) *harness.Manager {
	s.Helper()
	manager, err := s.env.StartManager(s.Context(), options)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := manager.Stop(); err != nil {
			s.Error(err)
		}
	})
	machine := s.pooled(name)
	s.create(machine)
	s.settled(name)
	s.delete(machine)
	s.gone(machine)
	return manager
}

// serve says whether a version of a CRD is served.
func (s *scene) serve(crd, version string, served bool) {
	s.Helper()
	s.changeCRD(crd, func(spec *apiextensionsv1.CustomResourceDefinitionSpec) {
		for i := range spec.Versions {
			if spec.Versions[i].Name == version {
				spec.Versions[i].Served = served
			}
		}
	})
}

func (s *scene) changeCRD(name string, change func(*apiextensionsv1.CustomResourceDefinitionSpec)) {
	s.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	crd.Name = name
	s.change(crd, func() { change(&crd.Spec) })
}
