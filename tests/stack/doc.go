// Package stack runs a whole management cluster as plain processes on this
// machine, on top of package harness: the control plane, cert-manager, Cluster
// API with its kubeadm providers, CAPV, both IPAM providers, a simulated vCenter
// whose virtual machines have guests, and capv-static-ip, installed as deploy/
// has it.
//
// The end-to-end tests, the benchmark and `make lab` share it. A run begins with
//
//	s, err := stack.Start(ctx, stack.Options{})
//	defer s.Stop()
//	err = s.CreateCluster(ctx, namespace, "dkp")
//	template := s.Template(namespace, "workers", harness.WithPool(harness.DefaultPool))
//	workers := stack.Workers(template, "dkp", "md-0", 3)
//	err = s.Create(ctx, harness.Pool(namespace), template, workers)
//	nodes, err := s.AwaitNodes(ctx, workers, time.Minute)
//
// Any number of stacks can run side by side, and several can share a vCenter.
package stack
