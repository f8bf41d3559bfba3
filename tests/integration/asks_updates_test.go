package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestDeviceAddedToABoundMachineIsWarnedOf(t *testing.T) {
	t.Parallel()
	const warning = "device 1 has no source of addresses, and is given none because others of the machine hold theirs already: " +
		"CAPV waits for one, and does nothing else for the machine until then; set dhcp4 or ipAddrs, or replace the machine"
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	c, warned := s.warnedClient()
	update := func(devices ...capvv1.NetworkDeviceSpec) {
		t.Helper()
		machine := harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool), harness.WithDevices(devices...))
		if err := harness.Apply(t.Context(), c, machine, harness.MachineSetManager); err != nil {
			t.Fatal(err)
		}
	}

	update(harness.StaticDevice(), onNetwork("storage"))
	warned.expect(s, warning)
	if note := s.told("cp-0", "AskedInVain"); note != warning {
		t.Errorf("the machine is told %q, want the warning", note)
	}
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"), onNetwork("storage"))

	// It is said once.
	mtu := int64(9000)
	device := harness.StaticDevice()
	device.MTU = &mtu
	update(device, onNetwork("storage"))
	warned.expect(s)
	update(device, onNetwork("storage"), harness.DHCPDevice())
	warned.expect(s)
}

// While its Cluster is paused, nobody gives a machine its annotation back.
func TestUpdateIsJudgedWithoutTheAnnotation(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(s *scene){
		"which is gone":       func(s *scene) { s.annotate(s.machine("cp-0"), ipam.BindingsAnnotation, nil) },
		"which is empty":      func(s *scene) { s.annotate(s.machine("cp-0"), ipam.BindingsAnnotation, new("{}")) },
		"which is no JSON":    func(s *scene) { s.annotate(s.machine("cp-0"), ipam.BindingsAnnotation, new("{")) },
		"which is of another": func(s *scene) { s.annotate(s.machine("cp-0"), ipam.BindingsAnnotation, new(`{"machine":"x"}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			cluster := harness.Cluster(s.ns, harness.DefaultCluster)
			s.create(cluster, harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
			s.settled("cp-0")
			s.change(cluster, func() { cluster.Spec.Paused = yes() })
			s.knownToBePaused()
			take(s)

			if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.StaticDevice()}); err != nil {
				t.Fatal(err)
			}
			s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
			_, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.DHCPDevice()})
			s.expectDenial(err, `device 0 gains DHCP, but holds 10.16.56.88/24 from IPPool "dkp-cluster": keep the device as it is, or replace the machine`)

			s.change(cluster, func() { cluster.Spec.Paused = nil })
			s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", "10.16.56.88") })
		})
	}
}

func TestBindingsThatAreNoneOfOursAreDenied(t *testing.T) {
	t.Parallel()
	binding := func(claim string) string {
		return `{"device":{"index":0},"pool":{"apiGroup":"ipam.metal3.io","kind":"IPPool","name":"dkp-cluster"},"claim":"` + claim + `","address":"10.16.56.88/24"}`
	}
	of := func(bindings ...string) string {
		return `{"machine":"cp-0","bindings":[` + strings.Join(bindings, ",") + `]}`
	}
	many := make([]string, ipam.MaxDevices+1)
	for i := range many {
		many[i] = binding(fmt.Sprintf("c-%d", i))
	}
	for name, text := range map[string]string{
		"an empty binding":           of("{}"),
		"no name of a claim":         of(binding("a/b")),
		"more than devices":          of(many...),
		"larger than any of ours":    of(binding("a")) + strings.Repeat(" ", 64<<10),
		"a device that cannot exist": of(strings.Replace(binding("a"), `"index":0`, `"index":4096`, 1)),
		"no pool":                    of(strings.Replace(binding("a"), "dkp-cluster", "../x", 1)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)

			s.denyMachines(`annotation capv-static-ip.dev/bindings cannot be read as bindings: remove it, so that addresses are claimed anew`,
				harness.WithAnnotation(ipam.BindingsAnnotation, text), harness.WithDevices(harness.DHCPDevice()))

			// A machine with a VM is not kept out for what is written on it.
			restored := harness.Machine(s.ns, "restored", harness.WithProviderID("vsphere://"+s.ns), harness.WithDevices(harness.DHCPDevice()),
				harness.WithAnnotation(ipam.BindingsAnnotation, text))
			s.create(restored)
			s.delete(restored)
			s.gone(restored)
		})
	}
}

// Whatever is left out of a machine, the match conditions have an answer: where
// they fail, the API server refuses it without asking.
func TestMatchConditionsHaveAnAnswerToEachUpdate(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns), harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	s.settled("cp-0")
	for name, patch := range map[string]any{
		"no labels":      map[string]any{"metadata": map[string]any{"labels": nil}},
		"no annotations": map[string]any{"metadata": map[string]any{"annotations": nil}},
		"no finalizers":  map[string]any{"metadata": map[string]any{"finalizers": nil}},
	} {
		for _, version := range []string{"v1beta1", "v1beta2"} {
			body, err := json.Marshal(patch)
			if err != nil {
				t.Fatal(err)
			}
			machine, err := harness.AsVersion(harness.Machine(s.ns, "cp-0"), version)
			if err != nil {
				t.Fatal(err)
			}
			err = s.env.Client.Patch(t.Context(), machine, client.RawPatch("application/merge-patch+json", body))
			if err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("%s, %s: %v", name, version, err)
			}
		}
	}
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	s.eventually("the marks to come back", func(context.Context) error { return s.isMarked("cp-0", "10.16.56.88") })
}

// knownToBePaused waits until each replica knows that the Cluster is paused.
func (s *scene) knownToBePaused() {
	s.Helper()
	preview := s.creation("probe", s.manifest(harness.Machine(s.ns, "probe", harness.WithPool(harness.DefaultPool))))
	preview.DryRun = yes()
	for _, replica := range s.env.managers {
		s.eventually(replica.Name+" to know that the Cluster is paused", func(context.Context) error {
			if response := s.ask(replica, preview); !slices.Contains(response.Warnings, warnPaused) {
				return fmt.Errorf("it warns of %q", response.Warnings)
			}
			return nil
		})
	}
}
