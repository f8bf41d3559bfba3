// Package webhook is the admission path of a VSphereMachine. Read it in this
// order: handler.go takes a request apart and decides; package demand finds what each
// device asks for; readmit.go is for creates that bring bindings along, update.go
// for updates. What was bound is written into the machine by machine.Inject.
//
// A machine is read through the few fields that matter here and changed as the
// JSON document that the API server sent, so that a field unknown to this
// program survives untouched, in every API version.
//
// docs/design.md shows a whole create in "One create".
package webhook
