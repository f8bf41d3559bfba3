package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// CAPI applies a whole machine as one manager, gives up that manager's claim to
// labels and annotations, and from then on applies those as a second manager.
func TestLaterMetadataAppliesOfCAPITakeNothingAway(t *testing.T) {
	t.Parallel()
	for _, manager := range []string{harness.MachineSetManager, harness.ControlPlaneManager} {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			machine, owner := s.cloneLikeCAPI(manager)
			s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
			s.disownMetadata("cp-0", manager)

			for _, value := range []string{"first", "second"} {
				update := metadataOf(machine, owner)
				harness.WithAnnotation("example.org/annotation", value)(update)
				s.apply(update, manager+"-metadata")

				if got := s.machine("cp-0").Annotations["example.org/annotation"]; got != value {
					t.Fatalf("got the annotation %q, want %q: the apply had no effect", got, value)
				}
				s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
				s.expectHeld("cp-0")
			}
		})
	}
}

// The API server drops the whole map of annotations with the last one that a
// manager of applies owned, those that nobody owns included.
func TestAnnotationWipedByAnApplyIsRestored(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	machine, owner := s.cloneLikeCAPI(harness.MachineSetManager)
	s.disownMetadata("cp-0", harness.MachineSetManager)
	s.settled("cp-0")
	before := s.machine("cp-0").Annotations[ipam.BindingsAnnotation]
	update := metadataOf(machine, owner)
	annotated := update.DeepCopy()
	harness.WithAnnotation("example.org/annotation", "last")(annotated)
	s.apply(annotated, harness.MachineSetManager+"-metadata")

	s.apply(update, harness.MachineSetManager+"-metadata")

	s.eventually("the bindings annotation to come back", func(context.Context) error {
		annotations := s.machine("cp-0").Annotations
		if _, kept := annotations["cluster.x-k8s.io/cloned-from-name"]; kept {
			return errors.New("the apply did not wipe the annotations")
		}
		if got := annotations[ipam.BindingsAnnotation]; got != before {
			return fmt.Errorf("it is %q, was %q", got, before)
		}
		return nil
	})
	s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
	s.expectHeld("cp-0")
}

// An update in place applies the template's devices, whole, as the manager that
// owns them.
func TestInPlaceUpdateOfCAPIKeepsTheAddress(t *testing.T) {
	t.Parallel()
	for _, manager := range []string{harness.MachineSetManager, harness.ControlPlaneManager} {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.cloneLikeCAPI(manager)
			s.disownMetadata("cp-0", manager)
			mtu := int64(9000)
			device := harness.StaticDevice()
			device.MTU = &mtu

			s.expectPreview(s.inPlaceUpdate("cp-0", device), manager, injected(device, "10.16.56.88/24"))
			s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))

			s.apply(s.inPlaceUpdate("cp-0", device), manager)

			s.expectDevices("cp-0", injected(device, "10.16.56.88/24"))
			s.expectHeld("cp-0")
			// The next apply, of the same, finds the address as well.
			s.apply(s.inPlaceUpdate("cp-0", device), manager)
			s.expectDevices("cp-0", injected(device, "10.16.56.88/24"))
		})
	}
}

func TestInPlaceUpdateOfCAPIKeepsBothAddressesOfADevice(t *testing.T) {
	t.Parallel()
	for _, manager := range []string{harness.MachineSetManager, harness.ControlPlaneManager} {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.cloneLikeCAPI(manager, withPoolOf("0", harness.DefaultPool+","+harness.DefaultPool))
			s.disownMetadata("cp-0", manager)
			device := s.machine("cp-0").Spec.Network.Devices[0]
			if len(device.IPAddrs) != 2 {
				t.Fatalf("the machine has addresses %v, want two", device.IPAddrs)
			}

			s.expectPreview(s.inPlaceUpdate("cp-0", harness.StaticDevice()), manager, device)
			s.apply(s.inPlaceUpdate("cp-0", harness.StaticDevice()), manager)

			s.expectDevices("cp-0", device)
			s.expectHeld("cp-0")
		})
	}
}

// expectPreview checks the devices that a dry run of an apply answers with.
func (s *scene) expectPreview(update client.Object, manager string, devices ...capvv1.NetworkDeviceSpec) {
	s.Helper()
	if err := harness.Apply(s.Context(), s.env.Client, update, manager, client.DryRunAll); err != nil {
		s.Fatal(err)
	}
	expectSame(s, "the devices in the dry run", s.typed(update).Spec.Network.Devices, devices)
}

// Stored, the machine would be of the new template and have an address of the old one's
// pool. Refused with 403, CAPI takes it for one that cannot be updated in place.
func TestInPlaceUpdateToATemplateOfAnotherPoolIsRefused(t *testing.T) {
	t.Parallel()
	for _, manager := range []string{harness.MachineSetManager, harness.ControlPlaneManager} {
		t.Run(manager, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.cloneLikeCAPI(manager)
			s.disownMetadata("cp-0", manager)
			s.create(harness.Template(s.ns, "cp-2", harness.WithPool("other")))

			for _, options := range [][]client.ApplyOption{{client.DryRunAll}, nil} {
				err := harness.Apply(t.Context(), s.env.Client, s.inPlaceUpdateTo("cp-2"), manager, options...)
				s.expectDenial(err, otherPool)
				if !apierrors.IsForbidden(err) {
					t.Errorf("with options %v the error is %v, want Forbidden", options, err)
				}
			}

			if got := s.machine("cp-0").Annotations[clusterv1.TemplateClonedFromNameAnnotation]; got != "cp" {
				t.Errorf("the machine is of template %q", got)
			}
			s.expectHeld("cp-0")
			s.told("cp-0", "PoolChanged")
		})
	}
}

// otherPool is the denial of a machine of cloneLikeCAPI that is to be of template cp-2.
const otherPool = `device 0 holds 10.16.56.88/24 from IPPool "dkp-cluster", and label cluster.x-k8s.io/ip-pool-name of VSphereMachineTemplate "cp-2" ` +
	`asks for other pools now: replace the machine, or name the pools that it has there`

func TestUpdateThatChangesOnlyTheTemplateIsJudged(t *testing.T) {
	t.Parallel()
	s := newScene(t, shared)
	s.cloneLikeCAPI(harness.MachineSetManager)
	s.create(harness.Template(s.ns, "cp-2", harness.WithPool("other")))
	machine := s.machine("cp-0")
	before := machine.DeepCopy()
	harness.FromTemplate("cp-2")(machine)

	s.expectDenial(s.env.Client.Patch(t.Context(), machine, client.MergeFrom(before)), otherPool)
}

func TestInPlaceUpdateToATemplateThatNamesNoOtherPool(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		template, machine []harness.Option
	}{
		"but the same":                    {template: []harness.Option{harness.WithPool(harness.DefaultPool)}},
		"but the same in an annotation":   {template: []harness.Option{harness.WithAnnotation("pools.capv-static-ip.dev/0", "IPPool/"+harness.DefaultPool)}},
		"and none":                        {},
		"of a machine that names its own": {template: []harness.Option{harness.WithPool("other")}, machine: []harness.Option{harness.WithPool(harness.DefaultPool)}},
		"and a group that no pool is in":  {template: []harness.Option{harness.WithLabel(ipam.PoolGroupLabel, "group")}},
		"but that as one of several":      {template: []harness.Option{harness.WithAnnotation("pools.capv-static-ip.dev/0", "other|"+harness.DefaultPool)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, shared)
			s.cloneLikeCAPI(harness.MachineSetManager, test.machine...)
			s.disownMetadata("cp-0", harness.MachineSetManager)
			s.create(harness.Template(s.ns, "cp-2", test.template...))

			s.apply(s.inPlaceUpdateTo("cp-2"), harness.MachineSetManager)

			if got := s.machine("cp-0").Annotations[clusterv1.TemplateClonedFromNameAnnotation]; got != "cp-2" {
				t.Errorf("the machine is of template %q", got)
			}
			s.expectDevices("cp-0", injected(harness.StaticDevice(), "10.16.56.88/24"))
			s.expectHeld("cp-0")
		})
	}
}

// inPlaceUpdateTo is what CAPI applies to a machine of cloneLikeCAPI to make it one of
// another template.
func (s *scene) inPlaceUpdateTo(template string) client.Object {
	s.Helper()
	update := s.inPlaceUpdate("cp-0", harness.StaticDevice())
	harness.FromTemplate(template)(update)
	return update
}

// typed is a machine of a manifest.
func (s *scene) typed(manifest client.Object) *capvv1.VSphereMachine {
	s.Helper()
	machine := &capvv1.VSphereMachine{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(manifest.(*unstructured.Unstructured).Object, machine); err != nil {
		s.Fatal(err)
	}
	return machine
}

// cloneLikeCAPI applies a machine as CAPI creates it, with its owner.
func (s *scene) cloneLikeCAPI(manager string, options ...harness.Option) (*capvv1.VSphereMachine, client.Object) {
	s.Helper()
	template := harness.Template(s.ns, "cp", harness.WithPool(harness.DefaultPool))
	var owner client.Object = harness.MachineSet(s.ns, "md-0", template.Name)
	if manager == harness.ControlPlaneManager {
		owner = harness.ControlPlaneOwner(s.ns, "cp", template.Name)
	}
	s.create(harness.Pool(s.ns), template, owner)
	machine := harness.Clone(template, "cp-0", append(options, harness.WithOwner(owner))...)
	s.apply(machine.DeepCopy(), manager)
	return machine, owner
}

// inPlaceUpdate is a machine of cloneLikeCAPI with devices of a newer template:
// without the metadata, which that manager has given up.
func (s *scene) inPlaceUpdate(name string, devices ...capvv1.NetworkDeviceSpec) client.Object {
	s.Helper()
	manifest, err := harness.Unstructured(harness.Machine(s.ns, name, harness.WithDevices(devices...)))
	if err != nil {
		s.Fatal(err)
	}
	manifest.SetLabels(nil)
	return manifest
}

// metadataOf is what CAPI applies of a machine to keep its metadata up to date.
func metadataOf(machine *capvv1.VSphereMachine, owner client.Object) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(capvv1.GroupVersion.WithKind("VSphereMachine"))
	object.SetNamespace(machine.Namespace)
	object.SetName(machine.Name)
	object.SetLabels(machine.Labels)
	harness.WithOwner(owner)(object)
	return object
}

// disownMetadata makes a manager give up labels and annotations, as CAPI does
// with every machine that it has created.
func (s *scene) disownMetadata(name, manager string) {
	s.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		machine := s.machine(name)
		before := machine.DeepCopy()
		for i := range machine.ManagedFields {
			if machine.ManagedFields[i].Manager == manager {
				disown(s, &machine.ManagedFields[i])
			}
		}
		return s.env.Client.Patch(s.Context(), machine, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	if err != nil {
		s.Fatal(err)
	}
	owns := func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == manager && slices.ContainsFunc([]string{`"f:annotations"`, `"f:labels"`}, func(field string) bool {
			return strings.Contains(entry.FieldsV1.GetRawString(), field)
		})
	}
	if slices.ContainsFunc(s.machine(name).ManagedFields, owns) {
		s.Fatalf("%s still owns metadata of machine %s", manager, name)
	}
}

func disown(s *scene, entry *metav1.ManagedFieldsEntry) {
	s.Helper()
	fields := map[string]map[string]any{}
	if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
		s.Fatal(err)
	}
	delete(fields["f:metadata"], "f:labels")
	delete(fields["f:metadata"], "f:annotations")
	raw, err := json.Marshal(fields)
	if err != nil {
		s.Fatal(err)
	}
	entry.FieldsV1.SetRawBytes(raw)
}
