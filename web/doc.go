// Package web shows on a page who has which address, to one person, on the loopback
// interface of their own machine, with their own rights. It writes nothing.
//
// server.go has the pages, guard.go who is let in, view.go what pages show.
package web
