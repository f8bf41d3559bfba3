// Package retry is the controller that makes CAPI try again when what refused a
// machine may be cured. CAPI itself backs off up to 1000 s.
//
// Admission writes on the owner of a refused machine (MachineSet,
// KubeadmControlPlane) which pools did not have what was asked of them, or why
// else it was refused. Here that annotation is taken off again: this is the touch,
// because CAPI reconciles an owner at once when it changes. A condition beside it says
// the same to people, and goes when a touch has helped (settle.go).
//
// An owner is touched when a pool that it waits for has what it needs (decide.go),
// and, whatever it waits for, when it is time (round.go): within a minute where
// nothing but a try shows that the cause is gone. Both decide by functions over
// values. What is remembered of touches is in memory only: forgetting it costs a
// touch too many, and that is a try of CAPI's which is refused.
//
// See docs/design.md, and docs/concepts.md for what users see of it.
package retry
