// Package lifecycle is the controller that looks after bindings once a machine is
// stored: it adopts them, holds them while the machine or its VM exists, gives
// them back afterwards, and reaps what an admission left without a machine.
//
// What to do with each binding is decided in decide.go, and what its machine misses
// of our marks in marks.go, by functions over values; holding.go has what can be
// asked of these. The rest of the package reads the values and carries the decisions
// out. Before a step after which others may have an address, confirm.go reads them
// again from the API server, and has the same function decide a second time. Every
// step is safe to repeat and to be interrupted: what is not done is decided again
// from the state of the API server.
//
// The words here, beside those of package ipam:
//
//   - A holding is what is known of one binding: its claim, its address, and what the
//     machine's annotation says. Any part of it may be missing.
//   - A spare address, or a spare claim, was made for a machine while it was admitted,
//     but the machine was stored without it.
//   - A stray address is not protected and leads nowhere: no machine has it, and no claim.
//   - An orphan is a claim without an owner, whose machine never came, or has not come
//     back yet.
//   - The fate of an address is what becomes of it when it is unprotected.
//
// docs/design.md lists the steps, and why each is safe, in "The steps of the
// controller".
package lifecycle
