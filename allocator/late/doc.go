// Package late is the controller that gives addresses to machines that are stored
// without: those that admission was not asked about, or could not serve, as under a
// paused Cluster or without a name. For each it asks the very same questions, claims in
// the same way and writes the same patch.
//
// It differs in what is certain. The machine exists: its claims are its own from their
// first moment, and are left to it whatever fails, so that the next try finds them. And
// CAPV may be about to clone: only a machine is touched that CAPV knows and whose VM is
// not begun, see due.go. What is refused is told in events, and tried again: after a
// change of the pool, of the claim or of the template, or after a while (waiting.go).
//
// VSphereClusters that are stored without the endpoint that they ask for are served in the
// same way (endpoint.go). Of these CAPV makes nothing: Cluster API waits for the endpoint.
//
// See docs/design.md, "Machines that are stored without an address".
package late
