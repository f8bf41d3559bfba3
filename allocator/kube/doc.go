// Package kube has what every part of the program does with objects of the API
// server, and that the client library leaves to its users: lists of a kind that
// may not be served, and writes that fail when the object has changed meanwhile.
package kube
