// Package ipam has the words of the allocation of addresses, and what is written
// on objects in them. It knows no provider.
//
// The words, and what the field calls the same things:
//
//   - A pool is an object with addresses to hand out: metal3's IPPool, the in-cluster
//     provider's InClusterIPPool, or any other of the IPAM contract of Cluster API.
//   - A statement is an annotation by which a pool says what it is for.
//   - A failure domain is what a Machine's spec.failureDomain names: a
//     VSphereDeploymentZone. A site is where a device is, or may turn out to be: a
//     failure domain, and the network that the device is on there.
//   - A provider is one claim API, and the controller that answers it.
//   - A claim asks a pool for one address (IPClaim, IPAddressClaim). The provider
//     binds it: it makes an address (IPAddress) that answers the claim.
//   - A device is one entry of a machine's spec.network.devices. It is what asks.
//   - An ask is one address that a machine's metadata asks for a device, with the
//     choices of pools that may serve it; a want is an ask with one of these pools; a
//     request is all asks of one machine; an allocation is one ask on its way to a
//     binding, with the pool that was chosen and its claim.
//   - A slot is the place of an address on its machine: device, and which of the
//     device's addresses it is. The names of claims end in it.
//   - A binding is a claim and its address, held by one device of one machine.
//   - A refusal denies a machine in a sentence with object, cause and remedy. A
//     shortage is what a pool did not have for it, and what its owner waits for.
//   - The owner of a machine is what it is made for: a MachineSet or a control plane.
//   - A mark is a label, an annotation or a finalizer of ours; a stamp is the mark
//     that says which request used a claim last, and when.
//   - To protect an address is to put our finalizer on it: it then stays taken,
//     whatever becomes of its claim.
//   - To adopt a claim is to make the stored machine its owner and controller.
//   - To take back is what a denied request does with the claims that it made.
//   - To release a binding is to unprotect its address and delete its claim, when the
//     machine and its VM are gone.
//   - An address cools down while it is kept, with its claim, after its machine and its
//     VM are gone. Then it is released.
//   - To reap a claim is to delete one whose machine was never stored; karpenter and
//     others call it garbage collection.
//   - To recreate a claim is to make it again for the very address that a living
//     machine has.
//   - To set an address aside is to keep one that no machine can be given from being
//     handed out, by the claim that it answered.
//   - To touch an owner is to take the note of its refusal off it, so that Cluster
//     API tries again at once.
//
// docs/design.md lists the marks and the steps.
package ipam
