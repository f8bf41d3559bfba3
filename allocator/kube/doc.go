// Package kube has what every part of the program does with objects of the API
// server, and that the client library leaves to its users: lists of a kind that
// may not be served, writes that fail when the object has changed meanwhile, and
// loggers that name it.
package kube
