package main

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

// lettingGo says what is left, after it has let go of what CAPV keeps in vain.
func (t *trial) lettingGo(left func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, a := range t.all() {
			if err := t.letGo(ctx, a); err != nil {
				return err
			}
		}
		return left(ctx)
	}
}

// letGo does what people have to do for what CAPV v1.16.1 keeps in vain, because it looks for
// an owner that is gone: a VSphereMachine whose Machine was deleted before Cluster API had put
// its finalizer on that (controllers/vspheremachine_controller.go, Reconcile), and a VSphereVM
// that it made while it let go of its VSphereMachine (controllers/vspherevm_controller.go).
// It leaves alone what has a VM: that is CAPV's to delete.
func (t *trial) letGo(ctx context.Context, a *arena) error {
	machines, vms := &capvv1.VSphereMachineList{}, &capvv1.VSphereVMList{}
	for _, list := range []client.ObjectList{machines, vms} {
		if err := t.stack.Plane.Client.List(ctx, list, client.InNamespace(a.ns)); err != nil {
			return err
		}
	}
	for i := range machines.Items {
		machine := &machines.Items[i]
		if slices.ContainsFunc(vms.Items, func(vm capvv1.VSphereVM) bool {
			return vm.Name == machine.Name || capi.OwnerMachine(&vm).UID == machine.UID
		}) {
			continue
		}
		if err := t.letGoWithout(ctx, machine, harness.MachineFinalizer, &clusterv1.Machine{}, "Machine"); err != nil {
			return err
		}
	}
	for i := range vms.Items {
		vm := &vms.Items[i]
		if vm.Spec.BiosUUID != "" || vm.Status.TaskRef != "" {
			continue
		}
		if err := t.letGoWithout(ctx, vm, capvv1.VMFinalizer, &capvv1.VSphereMachine{}, "VSphereMachine"); err != nil {
			return err
		}
	}
	return nil
}

// letGoWithout takes a finalizer off an object that is being deleted, if its owner of this kind is gone.
func (t *trial) letGoWithout(ctx context.Context, object client.Object, finalizer string, owner client.Object, kind string) error {
	c := t.stack.Plane.Client
	owners := object.GetOwnerReferences()
	i := slices.IndexFunc(owners, func(o metav1.OwnerReference) bool { return o.Kind == kind })
	if i < 0 || object.GetDeletionTimestamp() == nil || !slices.Contains(object.GetFinalizers(), finalizer) {
		return nil
	}
	err := c.Get(ctx, client.ObjectKey{Namespace: object.GetNamespace(), Name: owners[i].Name}, owner)
	if !apierrors.IsNotFound(err) {
		return err
	}
	before, _ := object.DeepCopyObject().(client.Object)
	controllerutil.RemoveFinalizer(object, finalizer)
	op := history.Op{Worker: -1, Kind: "let go", Namespace: object.GetNamespace(), Name: object.GetName()}
	err = t.do(ctx, op, func(ctx context.Context) error {
		return c.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	if apierrors.IsConflict(err) {
		return nil
	}
	return client.IgnoreNotFound(err)
}
