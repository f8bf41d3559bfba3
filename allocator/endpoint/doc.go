// Package endpoint is the controller that looks after the addresses of control-plane
// endpoints once their VSphereClusters are stored: it adopts them, holds them while a
// VSphereCluster or a Cluster uses them, and gives them back last of all.
//
// It is to VSphereClusters what package lifecycle is to machines, and smaller: there is
// one address, and no VM. What to do is decided in decide.go by a function over values;
// before a step after which others may have the address, controller.go reads what that
// depends on again from the API server, and has the same function decide a second time.
//
// What both do in the same way is in package allocator: a claim that is made anew
// (Recreation), an address that cools down (Cooler), one that is stray (DeleteStray).
//
// A claim here has no owner. A VSphereCluster can be deleted and made anew while its
// Cluster lives, whose certificates and clients know the address for ever: the garbage
// collector must not free it in between. The marks lead back to the claim.
package endpoint
