package integration

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// One control plane, to which everything comes one after the other.
func TestInstallationInParts(t *testing.T) {
	t.Parallel()
	env := ownEnvironment(t, harness.Options{WithoutMetal3: true}, 0)
	t.Run("without a replica, machines that need no address are created", func(t *testing.T) {
		s := bareScene(t, env)
		s.createMachinesThatNeedNoAddress()
		// Nor does it depend on us whether a machine is created that gets advice only.
		s.create(harness.Machine(s.ns, "advised", harness.FromTemplate("cp"), harness.WithDevices(dhcp6Device())))
	})

	replica, err := env.StartManager(t.Context(), harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("machines that need no address never reach the webhook", func(t *testing.T) {
		machinesThatNeverReachTheWebhook(bareScene(t, env), replica)
	})
	t.Run("without the provider's API, machines that need an address are denied", func(t *testing.T) {
		s := bareScene(t, env)
		s.denyTen(`no IPPool and no InClusterIPPool "dkp-cluster" can be used in namespace "NAMESPACE", `+
			`asked for by label cluster.x-k8s.io/ip-pool-name of the VSphereMachine: create the one that you mean or correct its name there; `+
			`for an IPPool install the metal3 IP Address Manager first`, harness.WithPool(harness.DefaultPool))
		s.denyTen(`IPPool "dkp-cluster" in namespace "NAMESPACE", asked for by annotation pools.capv-static-ip.dev/0 of the VSphereMachine, `+
			`cannot exist: the metal3 IP Address Manager is not installed; install it`, withPoolOf("0", "IPPool/"+harness.DefaultPool))
	})

	if err := env.InstallMetal3CRDs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if env.metal3, err = env.StartMetal3(t.Context(), harness.Metal3Options{}); err != nil {
		t.Fatal(err)
	}
	t.Run("updates that leave the devices alone never reach the webhook", func(t *testing.T) {
		updatesThatNeverReachTheWebhook(newScene(t, env), replica)
	})
	t.Run("deleting a copy that got in without the webhook frees nothing of the original", func(t *testing.T) {
		copyThatGotIn(t, env)
	})
}

// bareScene is a scene in which there is no provider, and so nothing of which
// the invariants speak.
func bareScene(t *testing.T, env *environment) *scene {
	t.Helper()
	ns, err := env.CreateNamespace(t.Context(), "scene")
	if err != nil {
		t.Fatal(err)
	}
	return &scene{T: t, env: env, ns: ns}
}

func machinesThatNeverReachTheWebhook(s *scene, replica *harness.Manager) {
	s.createMachinesThatNeedNoAddress()
	if count, connections := s.admissions(replica), s.env.Forwarder.Connections(replica.WebhookAddress); count != 0 || connections != 0 {
		s.Errorf("the replica got %v requests on %d connections, want none", count, connections)
	}

	// Updates of such machines neither, whatever they change.
	machine := harness.Machine(s.ns, "worker", harness.WithDevices(harness.DHCPDevice()))
	s.create(machine)
	if _, err := s.update("worker", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}); err != nil {
		s.Fatal(err)
	}
	if count := s.admissions(replica); count != 0 {
		s.Errorf("the replica got %v requests, want none", count)
	}

	// Those that might be served, or that ask for it themselves, do.
	for i, options := range [][]harness.Option{
		{},
		{harness.WithPool(harness.DefaultPool), harness.WithDevices(harness.DHCPDevice())},
		{withPoolOf("0", "IPPool/"+harness.DefaultPool), harness.WithDevices(harness.DHCPDevice())},
		{harness.FromTemplate("cp"), harness.WithDevices(dhcp6Device())},
	} {
		s.create(harness.Machine(s.ns, fmt.Sprintf("asks-%d", i), options...))
		if count := s.admissions(replica); count != float64(i+1) {
			s.Errorf("the replica got %v requests, want %d", count, i+1)
		}
	}
	// A template is not asked for machines that have what they need.
	s.create(harness.Machine(s.ns, "cloned", harness.FromTemplate("cp"), harness.WithDevices(harness.DHCPDevice())))
	s.create(harness.Machine(s.ns, "empty-label", harness.WithPool(""), harness.WithDevices(harness.DHCPDevice())))
	if count := s.admissions(replica); count != 4 {
		s.Errorf("the replica got %v requests, want none more than 4", count)
	}
}

// machinesThatNeedNoAddress are devices, as a client of any version sends them,
// and what the API server says of the manifest if it is not a machine.
var machinesThatNeedNoAddress = map[string]struct {
	spec    string
	invalid string
	// lenient is a version in which it is a machine nevertheless.
	lenient string
}{
	"DHCP for IPv4":               {spec: `{"network": {"devices": [{"networkName": "n", "dhcp4": true}]}}`},
	"DHCP for IPv6":               {spec: `{"network": {"devices": [{"networkName": "n", "dhcp6": true}]}}`},
	"DHCP for IPv6 and not IPv4":  {spec: `{"network": {"devices": [{"networkName": "n", "dhcp4": false, "dhcp6": true}]}}`},
	"static":                      {spec: `{"network": {"devices": [{"networkName": "n", "ipAddrs": ["192.0.2.7/24"]}]}}`},
	"static and no DHCP":          {spec: `{"network": {"devices": [{"networkName": "n", "dhcp4": false, "ipAddrs": ["192.0.2.7/24"]}]}}`},
	"addressesFromPools":          {spec: `{"network": {"devices": [{"networkName": "n", "addressesFromPools": [{"apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool", "name": "p"}]}]}}`},
	"skipIPAllocation":            {spec: `{"network": {"devices": [{"networkName": "n", "skipIPAllocation": true}]}}`},
	"several":                     {spec: `{"network": {"devices": [{"networkName": "n", "dhcp4": true}, {"networkName": "n", "skipIPAllocation": true}]}}`},
	"an empty list of devices":    {spec: `{"network": {"devices": []}}`},
	"a network without devices":   {spec: `{"network": {}}`, invalid: "spec.network.devices: Required value"},
	"a spec without a network":    {spec: `{}`, invalid: "spec.network: Required value"},
	"a manifest without any spec": {invalid: "spec: Required value", lenient: "v1beta1"},
}

// createMachinesThatNeedNoAddress creates them in both versions, with and
// without labels and annotations, and checks that they are stored as they were sent.
func (s *scene) createMachinesThatNeedNoAddress() {
	s.Helper()
	number := 0
	for title, test := range machinesThatNeedNoAddress {
		for _, version := range []string{"v1beta1", "v1beta2"} {
			for _, metadata := range []map[string]string{nil, {"example.org/something": "kept"}} {
				number++
				machine := s.rawMachine(fmt.Sprintf("m-%d", number), version, test.spec)
				machine.SetLabels(metadata)
				machine.SetAnnotations(metadata)
				sent := machine.DeepCopy()
				err := s.env.Client.Create(s.Context(), machine)
				switch valid := test.invalid == "" || test.lenient == s.env.served(version); {
				case valid && err != nil:
					s.Errorf("%s, %s: %v", title, version, err)
				case valid:
					expectSame(s, title+", "+version, content(machine), content(sent))
				case err == nil || !strings.Contains(err.Error(), test.invalid):
					s.Errorf("%s, %s: got the error %v, want %q", title, version, err, test.invalid)
				}
			}
		}
	}
}

// rawMachine is a machine with nothing but the given part of its spec.
func (s *scene) rawMachine(name, version, spec string) *unstructured.Unstructured {
	s.Helper()
	machine := &unstructured.Unstructured{Object: map[string]any{}}
	machine.SetAPIVersion(capvv1.GroupVersion.Group + "/" + version)
	machine.SetKind("VSphereMachine")
	machine.SetNamespace(s.ns)
	machine.SetName(name)
	if spec != "" {
		fields := decode(s, []byte(spec))
		// The definition asks for the first, and would set the second.
		fields["template"], fields["powerOffMode"] = "ubuntu", "hard"
		machine.Object["spec"] = fields
	}
	return machine
}

// content is all of a machine that its user, or a webhook, wrote.
func content(machine *unstructured.Unstructured) map[string]any {
	return map[string]any{
		"spec": machine.Object["spec"], "labels": machine.GetLabels(),
		"annotations": machine.GetAnnotations(), "finalizers": machine.GetFinalizers(),
	}
}

func updatesThatNeverReachTheWebhook(s *scene, replica *harness.Manager) {
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	s.settled("cp-0")
	machine := s.machine("cp-0")
	before := s.admissions(replica)

	s.change(machine, func() { harness.WithLabel("example.org/label", "new")(machine) })
	s.change(machine, func() { harness.WithAnnotation("example.org/annotation", "new")(machine) })
	s.change(machine, func() { harness.WithFinalizer(hold)(machine) })
	s.change(machine, func() { machine.Spec.ProviderID = "vsphere://cp-0" })
	stored := machine.DeepCopy()
	machine.Status.Addresses = []clusterv1.MachineAddress{{Type: clusterv1.MachineInternalIP, Address: "10.16.56.88"}}
	if err := s.env.Client.Status().Patch(s.Context(), machine, client.MergeFrom(stored)); err != nil {
		s.Fatal(err)
	}
	s.apply(harness.Clone(harness.Template(s.ns, "cp"), "worker", harness.WithDevices(harness.DHCPDevice())), harness.MachineSetManager)
	s.dropFinalizer(machine, hold)
	if count := s.admissions(replica); count != before {
		s.Errorf("the replica got %v requests, want none", count-before)
	}
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))

	if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}); err != nil {
		s.Fatal(err)
	}
	// An API server whose cache is behind the last write asks once more: it tries an
	// update on what it has cached, and again on what is stored.
	updated := s.admissions(replica)
	if updated == before {
		s.Error("the replica got no request, want that of the update of the devices")
	}
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	machine = s.machine("cp-0")
	s.delete(machine)
	s.gone(machine)
	if count := s.admissions(replica); count != updated {
		s.Errorf("the replica got %v requests for the deletion, want none", count-updated)
	}
}
