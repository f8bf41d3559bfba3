// Package retry is the controller that makes CAPI try again when a pool that
// refused a machine can serve it. CAPI itself backs off up to 1000 s.
//
// Admission writes on the owner of a refused machine (MachineSet,
// KubeadmControlPlane) which pools did not have what was asked of them. Here
// that annotation is taken off again when one of them has it: this is the touch,
// because CAPI reconciles an owner at once when it changes.
//
// Whom to touch, and when, is decided in decide.go, by functions over values.
// What is remembered of touches is in memory only: forgetting it costs a touch
// too many, and that is a try of CAPI's which is refused.
package retry
