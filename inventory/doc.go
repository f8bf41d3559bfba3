// Package inventory reads everything that has to do with static addresses into one
// graph, and answers questions about it: how full pools are, who has an address, what a
// roll-out needs. It writes nothing, and sees what its reader may see.
//
// graph.go reads; usage.go, holders.go and demand.go are pure functions on what was read.
package inventory
