// Package allocator turns what a machine asks for into addresses that it holds.
//
// It is the only code that talks to IPAM objects. A request has an ask for each
// address; the allocator chooses a pool for each that can serve, makes the claims,
// waits on watches until their providers have bound them all, and answers
// with bindings. The provider chooses the addresses, except where they are taken without it
// (take.go).
//
// Each ask becomes an allocation, which goes through choices.go, plan.go (with choose.go),
// bind.go, claim.go, await.go, accept.go and protect.go, in this order, and through take_back.go if the
// request comes to nothing; aside.go has the way around an address that is not fit.
//
// Everything that must survive a restart is written on the claims themselves:
// whom they belong to (a label and an annotation naming the machine) and which
// request used them last (the stamp). Taking a claim back is safe only because
// every use of a claim changes its stamp, and so its resourceVersion.
//
// The steps, and why each may be repeated, are in docs/design.md, "The steps of
// admission"; what is written on which object is in docs/marks.md.
package allocator
