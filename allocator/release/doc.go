// Package release is the controller that looks after bindings once a machine is
// stored: it adopts them, holds them while the machine or its VM exists, gives
// them back afterwards, and reaps what an admission left without a machine.
//
// What to do with each binding is decided in decide.go, by a function over
// values. The rest of the package reads those values and carries the decision
// out. Every step is safe to repeat and to be interrupted: what is not done is
// decided again from the state of the API server.
//
// docs/design.md lists the steps, and why each is safe, in "The steps of the
// controller".
package release
