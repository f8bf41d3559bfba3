// Package vcenter reads which addresses the guests of virtual machines report, and where a
// vCenter is and who may log in to it: by the environment as govc has it, or by what the
// VSphereClusters say. It changes nothing in a vCenter, and is the only package that speaks with
// one. Only the plugin imports it.
package vcenter
