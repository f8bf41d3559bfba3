// Package capi holds what is read of the objects of Cluster API and of its
// vSphere provider: metadata, and where addresses stand. The manager watches
// every machine and VM of a management cluster, so the types decode nothing else.
//
// The fields have the same names and shapes in v1beta1 and v1beta2 of both APIs,
// so one type serves for whichever version is served, see AddToScheme. Objects of
// these types are written by patches only: an update would drop what they do not
// hold.
//
// +kubebuilder:object:generate=true
package capi
