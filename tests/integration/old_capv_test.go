package integration

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// The manager, and whoever sends machines, has v1beta1 alone. The webhook's rules
// name both versions.
func TestCAPVWithoutV1beta2IsServed(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{OldCAPV: true}, 2)
	if _, err := env.StartInCluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectNotServed(t, env, harness.Machine("default", "probe"))

	for name, test := range map[string]func(*scene){
		"as a user applies it":          appliedByItsUser,
		"with metal3":                   aLife{harness.OfMetal3, true}.servesALife,
		"with the in-cluster provider":  aLife{harness.OfInCluster, false}.servesALife,
		"by the label of its template":  servedByItsTemplate,
		"left by the old adapter":       servedAfterTheAdapter,
		"with nothing where it asks":    deniedUntilThePoolIsThere,
		"with an address in use by one": usedByAMachine,
	} {
		t.Run(name, func(t *testing.T) { test(newScene(t, env)) })
	}
	env.expectQuiet(t)
}

// The IPAM providers of that time are played: today's need v1beta2.
func TestClusterAPIWithoutV1beta2IsServed(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{OldCAPV: true, OldCAPI: true, WithoutMetal3: true}, 2)
	if err := env.InstallMetal3CRDs(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, object := range []client.Object{
		harness.Machine("default", "probe"), harness.Cluster("default", "probe"), harness.MachineSet("default", "probe", "probe"),
	} {
		expectNotServed(t, env, object)
	}

	for name, test := range map[string]func(*scene){
		"with metal3":                      played(88, aLife{harness.OfMetal3, false}.servesALife),
		"with the in-cluster provider":     playedOldContract(aLife{harness.OfInCluster, false}.servesALife),
		"with nothing where it asks":       played(88, deniedUntilThePoolIsThere),
		"with the endpoint of its Cluster": played(188, endpointIsNotGiven),
		"while its Cluster is paused":      played(88, pausedWithItsCluster),
	} {
		t.Run(name, func(t *testing.T) { test(newScene(t, env)) })
	}
	env.expectQuiet(t)
}

func appliedByItsUser(s *scene) {
	file, err := os.Open("testdata/capv-1.15.yaml")
	if err != nil {
		s.Fatal(err)
	}
	defer file.Close()
	for decoder := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			s.Fatal(err)
		}
		object.SetNamespace(s.ns)
		s.apply(object, "kubectl")
	}
	if ip := s.settled("r01-a"); ip != "10.201.1.10" {
		s.Errorf("got %s, want the first of the pool", ip)
	}
	s.expectHeld("r01-a")
	s.expectServedVersions()
	machine := s.machine("r01-a")
	s.delete(machine)
	s.gone(machine)
	s.returned("10.201.1.10")
	s.noClaims()
}

func servedByItsTemplate(s *scene) {
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	s.create(harness.Pool(s.ns), s.older(template))
	s.eventually("the template to be known", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.older(harness.Clone(template, "probe")), client.DryRunAll)
	})
	s.create(s.older(harness.Clone(template, "cp-0")))
	s.expectDevices("cp-0", injected(harness.StaticDevice(), firstIP+"/24"))
	s.settled("cp-0")
}

func servedAfterTheAdapter(s *scene) {
	s.create(harness.Pool(s.ns))
	machine := s.fromAdapter("cp-0")
	s.eventually("the machine to be adopted", func(context.Context) error { return s.isFullyAdopted("cp-0", firstIP) })
	s.expectOwner("cp-0")
	s.delete(machine)
	s.gone(machine)
	s.toldInServedVersion("AddressReleased")
	s.returned(firstIP)
	s.noClaims()
}

// deniedUntilThePoolIsThere has an owner that is told why, and is touched when the
// cause is gone.
func deniedUntilThePoolIsThere(s *scene) {
	owner := s.machineSet("owner")
	s.refused(s.older(s.pooled("cp-0")), "no IPPool and no InClusterIPPool")
	s.toldInServedVersion(string(ipam.PoolNotFound))
	s.waiting(owner)
	s.toldAbout("MachineSet", "owner", string(ipam.PoolNotFound))
	s.expectSaying(owner, ipam.PoolNotFound, poolNotFound)
	s.create(harness.Pool(s.ns))
	s.touched(owner)
	s.silent(owner)
	s.create(s.older(s.pooled("cp-0", harness.WithOwner(owner))))
	s.settled("cp-0")
}

// usedByAMachine has a machine whose user gave it the first address of the pool.
func usedByAMachine(s *scene) {
	s.create(harness.Pool(s.ns), s.older(harness.Machine(s.ns, "fixed", harness.WithDevices(harness.FixedDevice(firstIP+"/24")))))
	s.known(firstIP)
	s.create(s.older(s.pooled("cp-0")))
	s.expectDevices("cp-0", injected(harness.StaticDevice(), secondIP+"/24"))
}

// endpointIsNotGiven has a Cluster whose endpoint is the first address of the pool.
// It has no network, so no other scene may use it.
func endpointIsNotGiven(s *scene) {
	const endpoint = "10.16.56.188"
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	cluster.Spec.ControlPlaneEndpoint.Host, cluster.Spec.ControlPlaneEndpoint.Port = endpoint, 6443
	s.create(cluster, harness.Pool(s.ns, harness.PoolRange(endpoint, "10.16.56.189")))
	s.known(endpoint)
	s.create(s.older(s.pooled("cp-0")))
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.189/24"))
}

func pausedWithItsCluster(s *scene) {
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	s.create(cluster, harness.Pool(s.ns))
	machine := s.older(s.pooled("cp-0"))
	s.create(machine)
	ip := s.settled("cp-0")
	s.change(cluster, func() { cluster.Spec.Paused = yes() })
	s.knownToBePaused()
	s.change(machine, func() { machine.SetFinalizers(nil) })
	s.consistently("the marks stay off", func(context.Context) error {
		if s.isMarked("cp-0", ip) == nil {
			return errors.New("they are back")
		}
		return nil
	})
	s.change(cluster, func() { cluster.Spec.Paused = nil })
	s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", ip) })
}
