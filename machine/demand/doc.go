// Package demand reads what a VSphereMachine asks for: the metadata of the template that
// it was cloned from, its Cluster, and the pools that are meant. What it says with that
// is decided in package machine.
package demand
