// Package informers starts the informers of kinds when they are served, be that
// when the program starts or long after it.
package informers
