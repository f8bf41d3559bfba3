// Package aside is the controller that looks after addresses which no machine
// can be given: a pool's own gateway, or what something else in the management
// cluster uses. Admission sets such an address aside by keeping the claim that it
// was the answer to. Here the pool is told, and the claim is deleted when the
// cause is gone.
//
// See docs/design.md, and docs/concepts.md for what users see of it.
package aside
