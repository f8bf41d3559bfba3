package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

func TestLabelThatALaterWebhookAddsIsServed(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.lateWebhook(func(request *admissionv1.AdmissionRequest) string {
		if labelled(s, request) {
			return ""
		}
		return `[{"op": "add", "path": "/metadata/labels/cluster.x-k8s.io~1ip-pool-name", "value": "` + harness.DefaultPool + `"}]`
	})

	s.create(harness.Machine(s.ns, "cp-0", late))

	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	s.expectHeld("cp-0")
	s.settled("cp-0")
}

func labelled(s *scene, request *admissionv1.AdmissionRequest) bool {
	machine := decodeMachine(s, request.Object.Raw)
	return machine.Labels[harness.PoolLabel] != "" || !strings.HasPrefix(machine.Name, "cp-")
}

func decodeMachine(s *scene, raw []byte) *capvv1.VSphereMachine {
	machine := &capvv1.VSphereMachine{}
	if err := json.Unmarshal(raw, machine); err != nil {
		s.Error(err)
	}
	return machine
}

func TestDeviceThatALaterWebhookAddsIsServedAndTheFirstKeepsItsClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	var before atomic.Pointer[string]
	s.lateWebhook(func(request *admissionv1.AdmissionRequest) string {
		machine := decodeMachine(s, request.Object.Raw)
		if machine.Name != "cp-0" || len(machine.Spec.Network.Devices) > 1 {
			return ""
		}
		claim, err := s.claim("cp-0")
		if err != nil {
			s.Error(err)
			return ""
		}
		stamp := string(claim.GetUID()) + " " + claim.GetAnnotations()[ipam.LastUsedAnnotation]
		before.Store(&stamp)
		return `[{"op": "add", "path": "/spec/network/devices/-", "value": {"networkName": "Storage", "dhcp4": false}}]`
	})

	s.create(harness.Machine(s.ns, "cp-0", late, harness.WithPool(harness.DefaultPool)))

	devices := s.machine("cp-0").Spec.Network.Devices
	if len(devices) != 2 || len(devices[0].IPAddrs) != 1 || len(devices[1].IPAddrs) != 1 || devices[0].IPAddrs[0] == devices[1].IPAddrs[0] {
		t.Fatalf("got the devices %+v, want two with an address each", devices)
	}
	s.expectHeld("cp-0")
	claim, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(claim.GetUID()) + " " + claim.GetAnnotations()[ipam.LastUsedAnnotation]; before.Load() == nil || got != *before.Load() {
		t.Errorf("the claim of the first device is %s, want it as it was before the second call", got)
	}
	if got := names(s.claims()); len(got) != 2 {
		t.Errorf("got the claims %v, want one of each device", got)
	}
}

// The second call may come to a replica whose cache has nothing of the first.
func TestSecondCallOfACreateChangesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	manifest := s.onOwnNetwork(s.manifest(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool))))
	first := s.ask(shared.managers[0], s.creation("cp-0", manifest))
	patch, err := jsonpatch.DecodePatch(first.Patch)
	if err != nil || !first.Allowed {
		t.Fatalf("got the response %+v (%v), want a patch", first, err)
	}
	patched, err := patch.Apply(manifest)
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}

	for _, replica := range []*harness.Manager{shared.managers[1], shared.managers[0]} {
		second := s.ask(replica, s.creation("cp-0", patched))
		if !second.Allowed || len(second.Patch) > 0 || len(second.Warnings) > 0 {
			t.Errorf("%s answers the second call with %+v, patch %s; want it allowed as it is", replica.Name, second, second.Patch)
		}
	}

	after, err := s.claim("cp-0")
	if err != nil {
		t.Fatal(err)
	}
	expectSame(s, "the claim", after, before)
	s.create(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
}

func TestDeviceThatALaterWebhookPutsFirst(t *testing.T) {
	t.Parallel()
	insert := func(device string) func(s *scene) {
		return func(s *scene) {
			s.create(harness.Pool(s.ns))
			s.lateWebhook(func(request *admissionv1.AdmissionRequest) string {
				machine := decodeMachine(s, request.Object.Raw)
				if !strings.HasPrefix(machine.Name, "cp-") || len(machine.Spec.Network.Devices) > 1 {
					return ""
				}
				return fmt.Sprintf(`[{"op": "add", "path": "/spec/network/devices/0", "value": %s}]`, device)
			})
		}
	}
	t.Run("with DHCP leaves the address where it is", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		insert(`{"networkName": "VM Network", "dhcp4": true}`)(s)
		s.create(harness.Machine(s.ns, "cp-0", late, harness.WithPool(harness.DefaultPool)))
		bound := injected(harness.StaticDevice(), "10.16.56.88/24")
		s.expectDevices("cp-0", harness.DHCPDevice(), bound)
		s.settled("cp-0")

		// An update that takes the address off is mended on the device that had it.
		if _, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.DHCPDevice(), harness.StaticDevice()}); err != nil {
			t.Fatal(err)
		}
		s.expectDevices("cp-0", harness.DHCPDevice(), bound)
		_, err := s.update("cp-0", []capvv1.NetworkDeviceSpec{harness.DHCPDevice()})
		s.expectDenial(err, `device 1 is gone, but holds 10.16.56.88/24 from IPPool "dkp-cluster": keep the device as it is, or replace the machine`)
	})
	t.Run("that waits for an address is denied", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, shared)
		insert(`{"networkName": "Storage"}`)(s)
		s.expectDenial(s.env.Client.Create(t.Context(), harness.Machine(s.ns, "cp-0", late, harness.WithPool(harness.DefaultPool))),
			`device 0 was given an address from IPPool "dkp-cluster", and a webhook that runs after this one has changed it or its place: `+
				`have that webhook add devices behind the others, and leave those that have an address`)
		s.within(gracePeriod+harness.Soon, "the claim of the first call to be reaped", func(context.Context) error {
			if claims := s.claims(); len(claims) > 0 {
				return fmt.Errorf("claim %s exists", claims[0].GetName())
			}
			return nil
		})
	})
}

func TestAddressThatALaterWebhookTakesOffIsPutBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.create(harness.Pool(s.ns))
	s.lateWebhook(func(request *admissionv1.AdmissionRequest) string {
		machine := decodeMachine(s, request.Object.Raw)
		if machine.Name != "cp-0" || machine.Spec.Network.Devices[0].MTU != nil {
			return ""
		}
		return `[{"op": "replace", "path": "/spec/network/devices", "value": [{"networkName": "` + sharedNetwork + " of " + s.ns + `", "dhcp4": false, "mtu": 9000}]}]`
	})

	s.create(harness.Machine(s.ns, "cp-0", late, harness.WithPool(harness.DefaultPool)))

	device, mtu := harness.StaticDevice(), int64(9000)
	device.MTU = &mtu
	s.expectDevices("cp-0", injected(device, "10.16.56.88/24"))
	s.expectHeld("cp-0")
	if got := names(s.claims()); len(got) != 1 {
		t.Errorf("got the claims %v, want one", got)
	}
}
