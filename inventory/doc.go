// Package inventory reads everything that has to do with static addresses into one
// graph, and answers questions about it: how full pools are, who has an address, what a
// roll-out needs. It writes nothing, and sees what its reader may see.
//
// graph.go and webhooks.go read; usage.go, holders.go, demand.go, explain.go and audit.go are
// pure functions on what was read. audit_twice.go reads what looks wrong once more, and
// audit_again.go has a later read for that.
package inventory
