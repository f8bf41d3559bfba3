// Package harness runs capv-static-ip the way a management cluster does, as
// plain processes on this machine: a real control plane with its garbage
// collector, a real IPAM provider, and the project's own manager under exactly
// the rights that deploy/ grants it.
//
// Integration tests, the demo and the benchmark share it. A run begins with
//
//	plane, err := harness.Start(ctx, harness.Options{})
//	defer plane.Stop()
//	metal3, err := plane.StartMetal3(ctx, harness.Metal3Options{})
//	inCluster, err := plane.StartInCluster(ctx)
//	installation, err := plane.Install(ctx)
//	manager, err := installation.StartManager(ctx, harness.ManagerOptions{})
//
// and goes on in the words of the field: Pool, Template, Machine, Apply.
// Every control plane has ports, keys and a folder of its own, so that any
// number of them can run side by side.
//
// The invariants that it checks are those of docs/design.md.
package harness
