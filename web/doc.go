// Package web shows on a page who has which address, to one person, on the loopback
// interface of their own machine, with their own rights. It writes nothing.
//
// guard.go has who is let in, server.go the pages, follow.go and watch.go what keeps them
// fresh. pools.go, grid.go and stories.go make of a Graph what templates show, and
// findings.go of what was found to be wrong in it.
package web
