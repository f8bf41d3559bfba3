package main

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// ownDisks is asked about each call of the API, and takes changes of disks out
// of those that clone. A client means the clone's disk and sends the template's,
// as the vSphere API has it. The simulator takes it at its word: the clone uses
// the template's file from then on, and takes it along when it is destroyed.
// Whatever is cloned after that has no disk, and one network card too many.
func ownDisks(_ *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if clone, ok := method.Body.(*types.CloneVM_Task); ok && clone.Spec.Config != nil {
		changes := clone.Spec.Config.DeviceChange
		clone.Spec.Config.DeviceChange = slices.DeleteFunc(changes, func(change types.BaseVirtualDeviceConfigSpec) bool {
			spec := change.GetVirtualDeviceConfigSpec()
			_, disk := spec.Device.(*types.VirtualDisk)
			return disk && spec.Operation == types.VirtualDeviceConfigSpecOperationEdit
		})
	}
	return nil, nil //nolint:nilnil // the simulator's way to say: go on
}
