package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/tests/harness"
)

// notServed is what a log says of a kind or a version that is not served.
var notServed = regexp.MustCompile("is not served in the version|no matches for kind|could not find the requested resource")

// provided is what the life of a machine needs to know of where its address is from.
type provided struct {
	pool      func(*scene)
	machine   func(s *scene, name string, options ...harness.Option) *capvv1.VSphereMachine
	injected  func(device capvv1.NetworkDeviceSpec, address string) capvv1.NetworkDeviceSpec
	address   string
	claim     func(*scene, string) (client.Object, error)
	settled   func(*scene, string) string
	protected func(*scene, string) error
	returned  func(*scene, string)
	// played says that nobody answers for claims but the test, which does so once.
	played bool
}

func fromMetal3() provided {
	return provided{
		pool:     func(s *scene) { s.create(harness.Pool(s.ns)) },
		machine:  (*scene).pooled,
		injected: injected,
		address:  firstIP,
		claim:    func(s *scene, machine string) (client.Object, error) { return s.claim(machine) },
		settled:  (*scene).settled, protected: (*scene).isProtected, returned: (*scene).returned,
	}
}

func fromInCluster() provided {
	return provided{
		pool:     func(s *scene) { s.inClusterPool() },
		machine:  (*scene).inClusterMachine,
		injected: inClusterInjected,
		address:  inClusterFirst,
		claim:    func(s *scene, machine string) (client.Object, error) { return s.addressClaim(machine, 0) },
		settled:  (*scene).inClusterSettled, protected: (*scene).isInClusterProtected, returned: (*scene).inClusterReturned,
	}
}

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
		"with metal3":                   fromMetal3().servesALife,
		"with the in-cluster provider":  fromInCluster().servesALife,
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

	metal3, inCluster := fromMetal3(), fromInCluster()
	metal3.played, inCluster.played = true, true
	inCluster.address = "10.16.57.88"
	for name, test := range map[string]func(*scene){
		"with metal3":                      played(metal3.servesALife),
		"with the in-cluster provider":     playedOldContract(inCluster.servesALife),
		"with nothing where it asks":       played(deniedUntilThePoolIsThere),
		"with the endpoint of its Cluster": played(endpointIsNotGiven),
		"while its Cluster is paused":      played(pausedWithItsCluster),
	} {
		t.Run(name, func(t *testing.T) { test(newScene(t, env)) })
	}
	env.expectQuiet(t)
}

// expectNotServed sees that the API is what the test is about.
func expectNotServed(t *testing.T, env *environment, object client.Object) {
	t.Helper()
	newer, err := harness.Unstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	c := env.plainClient(t)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(newer), newer); err == nil || client.IgnoreNotFound(err) == nil {
		t.Fatalf("reading %s: got %v, want it not to be served", newer.GroupVersionKind(), err)
	}
}

// plainClient sees the API as it is, where the environment's own lets the tests
// use v1beta2.
func (e *environment) plainClient(t *testing.T) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{Scheme: harness.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// expectQuiet sees that no replica waits for what is not served, or speaks of it.
func (e *environment) expectQuiet(t *testing.T) {
	t.Helper()
	for _, manager := range e.managers {
		if err := manager.Ready(t.Context()); err != nil {
			t.Errorf("%s is not ready: %v", manager.Name, err)
		}
		log, err := os.ReadFile(manager.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if notServed.MatchString(line) {
				t.Errorf("%s says: %s", manager.Name, line)
			}
		}
	}
}

// older is an object as a client of the older version sends it.
func (s *scene) older(object client.Object) *unstructured.Unstructured {
	s.Helper()
	manifest, err := harness.AsVersion(object, oldVersion)
	if err != nil {
		s.Fatal(err)
	}
	owners := manifest.GetOwnerReferences()
	for i := range owners {
		owners[i].APIVersion = strings.Replace(owners[i].APIVersion, newVersion, oldVersion, 1)
	}
	manifest.SetOwnerReferences(owners)
	return manifest
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

// servesALife is the life of a machine that is sent, changed and read in v1beta1.
func (p provided) servesALife(s *scene) {
	p.pool(s)
	machine := s.older(p.machine(s, "cp-0", harness.WithFinalizer(harness.MachineFinalizer)))
	s.apply(machine, harness.ControlPlaneManager)
	s.expectDevices("cp-0", p.injected(harness.StaticDevice(), p.address+"/24"))
	s.expectHeld("cp-0")
	ip := p.settled(s, "cp-0")
	p.expectOwner(s, "cp-0")

	s.change(machine, func() {
		machine.SetFinalizers([]string{harness.MachineFinalizer})
		machine.SetAnnotations(nil)
	})
	s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", ip) })
	s.change(machine, func() {
		machine.Object["spec"] = s.older(harness.Machine(s.ns, "cp-0")).Object["spec"]
	})
	s.expectDevices("cp-0", p.injected(harness.StaticDevice(), p.address+"/24"))
	s.expectHeld("cp-0")
	if !p.played {
		p.claimComesBack(s, ip)
	}
	p.virtualMachineKeeps(s, ip)
	s.noClaims()
	s.expectServedVersions()
}

// expectOwner sees that the machine owns its claim in the version that is served.
func (p provided) expectOwner(s *scene, name string) {
	s.Helper()
	claim, err := p.claim(s, name)
	if err == nil {
		claim, err = s.plain(claim)
	}
	if err != nil {
		s.Fatal(err)
	}
	owners := claim.GetOwnerReferences()
	if len(owners) != 1 || owners[0].APIVersion != capvv1.GroupName+"/"+oldVersion {
		s.Errorf("claim %s has the owners %v, want the machine in version %s", claim.GetName(), owners, oldVersion)
	}
}

// plain reads an object again, as it is. What only v1beta1 has, is read in that.
func (s *scene) plain(object client.Object) (client.Object, error) {
	return object, s.env.plainClient(s.T).Get(s.Context(), client.ObjectKeyFromObject(object), object)
}

func (p provided) claimComesBack(s *scene, ip string) {
	s.Helper()
	former, err := p.claim(s, "cp-0")
	if err != nil {
		s.Fatal(err)
	}
	s.delete(former)
	s.eventually("the claim to come back", func(context.Context) error {
		claim, err := p.claim(s, "cp-0")
		if err == nil && claim.GetUID() == former.GetUID() {
			err = errors.New("it is the former one")
		}
		return err
	})
	if got := p.settled(s, "cp-0"); got != ip {
		s.Errorf("the machine has %s, had %s", got, ip)
	}
	p.expectOwner(s, "cp-0")
	s.toldInServedVersion("ClaimRebuilt")
}

// toldInServedVersion waits for an event about machine cp-0, as it is stored.
func (s *scene) toldInServedVersion(reason string) {
	s.Helper()
	event := s.toldAbout("VSphereMachine", "cp-0", reason)
	stored, err := s.plain(&event)
	if err != nil {
		s.Fatal(err)
	}
	if got := stored.(*eventsv1.Event).Regarding.APIVersion; got != capvv1.GroupName+"/"+oldVersion {
		s.Errorf("event %s is about a machine of %s, want version %s", reason, got, oldVersion)
	}
}

// virtualMachineKeeps deletes a machine whose VM, which says what address it has
// in its status alone, goes later.
func (p provided) virtualMachineKeeps(s *scene, ip string) {
	s.Helper()
	fixture := harness.VSphereVM(s.machine("cp-0"), harness.WithFinalizer(vmFinalizer), harness.WithDevices(harness.DHCPDevice()))
	fixture.OwnerReferences = nil
	vm := s.older(fixture)
	s.create(vm)
	before := vm.DeepCopy()
	vm.Object["status"] = map[string]any{"addresses": []any{ip}}
	if err := s.env.Client.Status().Patch(s.Context(), vm, client.MergeFrom(before)); err != nil {
		s.Fatal(err)
	}
	machine := s.machine("cp-0")
	s.delete(machine)
	s.dropFinalizer(machine, harness.MachineFinalizer)
	s.gone(machine)
	s.consistently("the VM's address is protected", func(context.Context) error { return p.protected(s, ip) })
	s.gone(s.deleted(vm, vmFinalizer))
	p.returned(s, ip)
}

// expectServedVersions sees that nothing in the scene names a version that is not
// served: neither an owner nor an event does.
func (s *scene) expectServedVersions() {
	s.Helper()
	c := s.env.plainClient(s.T)
	for _, kind := range []string{"VSphereMachine", "IPClaim", "IPAddress", "Event"} {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion(map[string]string{
			"VSphereMachine": capvv1.GroupName + "/" + oldVersion, "Event": "events.k8s.io/v1",
			"IPClaim": ipamv1.GroupVersion.String(), "IPAddress": ipamv1.GroupVersion.String(),
		}[kind])
		list.SetKind(kind + "List")
		if err := c.List(s.Context(), list, client.InNamespace(s.ns)); err != nil {
			s.Fatal(err)
		}
		content, err := list.MarshalJSON()
		if err != nil {
			s.Fatal(err)
		}
		if at := strings.Index(string(content), capvv1.GroupName+"/"+newVersion); at >= 0 {
			s.Errorf("a %s names %s/%s:\n%s", kind, capvv1.GroupName, newVersion, content[max(0, at-300):at])
		}
	}
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
	fromMetal3().expectOwner(s, "cp-0")
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
	s.refused(s.older(s.pooled("cp-0", harness.WithOwner(owner))), "not found")
	s.toldInServedVersion(string(allocator.PoolNotFound))
	s.toldAbout("MachineSet", "owner", string(allocator.PoolNotFound))
	s.waiting(owner)
	s.create(harness.Pool(s.ns))
	s.touched(owner)
	s.create(s.older(s.pooled("cp-0", harness.WithOwner(owner))))
	s.settled("cp-0")
}

// usedByAMachine has a machine whose user gave it the first address of the pool.
func usedByAMachine(s *scene) {
	s.create(harness.Pool(s.ns), s.older(harness.Machine(s.ns, "fixed", harness.WithDevices(harness.FixedDevice(firstIP+"/24")))))
	s.eventually("the machine to be known", func(ctx context.Context) error {
		probe := s.older(s.pooled("probe", harness.WithDevices(harness.FixedDevice(firstIP+"/24"))))
		return denialIn(s.env.Client.Create(ctx, probe, client.DryRunAll))
	})
	s.create(s.older(s.pooled("cp-0")))
	s.expectDevices("cp-0", injected(harness.StaticDevice(), secondIP+"/24"))
}

// endpointIsNotGiven has a Cluster whose endpoint is the first address of the pool.
func endpointIsNotGiven(s *scene) {
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	cluster.Spec.ControlPlaneEndpoint.Host, cluster.Spec.ControlPlaneEndpoint.Port = firstIP, 6443
	s.create(cluster, harness.Pool(s.ns))
	s.eventually("a machine to get another address", func(ctx context.Context) error {
		return s.env.Client.Create(ctx, s.older(s.pooled("cp-0")))
	})
	s.expectDevices("cp-0", injected(harness.StaticDevice(), secondIP+"/24"))
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

// played has a test in a scene where claims get the addresses of the default pool
// one after the other.
func played(test func(*scene)) func(*scene) {
	return func(s *scene) {
		given := 87
		stop := s.playProvider(func(ctx context.Context, claim *ipamv1.IPClaim) error {
			given++
			address := addressFor(claim, ipamv1.IPAddressStr(fmt.Sprintf("10.16.56.%d", given)))
			address.Spec.Gateway = ptr(ipamv1.IPAddressStr("10.16.56.1"))
			address.Spec.DNSServers = []ipamv1.IPAddressStr{"10.16.56.10", "10.16.56.11"}
			if err := s.env.Client.Create(ctx, address); err != nil {
				return err
			}
			return s.tell(ctx, claim, address.Name)
		})
		defer stop()
		test(s)
	}
}

// playedOldContract is played for the claims of the contract.
func playedOldContract(test func(*scene)) func(*scene) {
	return func(s *scene) {
		stop := s.playOldContract(s.answersInOldVersion)
		defer stop()
		test(s)
	}
}
