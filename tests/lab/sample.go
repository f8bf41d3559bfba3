package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

const (
	// namespace is where everything is made, so that kubectl needs no flag for it.
	namespace = "default"
	// nodesTimeout is how long the virtual machines of a group may take.
	nodesTimeout = 3 * time.Minute
	replicas     = 3
)

// group is a MachineDeployment, and what its machines are to be given.
type group struct {
	pool    string
	workers *clusterv1.MachineDeployment
	gateway string
	nodes   []stack.Node
}

// sample is what the lab makes.
type sample []*group

// createSample makes a Cluster, a pool of each provider, and a group of workers
// for each pool, and waits until their virtual machines run.
func createSample(ctx context.Context, s *stack.Stack) (sample, error) {
	fmt.Printf("making Cluster %s, two pools, and workers in each\n", harness.DefaultCluster)
	if err := s.CreateCluster(ctx, namespace, harness.DefaultCluster); err != nil {
		return nil, err
	}
	if err := s.Create(ctx, harness.Pool(namespace), harness.InClusterPool(namespace)); err != nil {
		return nil, err
	}
	metal3 := s.Template(namespace, "dkp-metal3", harness.WithPool(harness.DefaultPool))
	inCluster := s.Template(namespace, "dkp-in-cluster",
		harness.WithAnnotation("pools.capv-static-ip.dev/0", harness.InClusterPoolKind+"/"+harness.DefaultInClusterPool))
	made := sample{
		{
			pool:    "IPPool " + harness.DefaultPool,
			workers: stack.Workers(metal3, harness.DefaultCluster, "dkp-metal3", replicas),
			gateway: "10.16.56.1",
		},
		{
			pool:    harness.InClusterPoolKind + " " + harness.DefaultInClusterPool,
			workers: stack.Workers(inCluster, harness.DefaultCluster, "dkp-in-cluster", replicas),
			gateway: "10.16.57.1",
		},
	}
	if err := s.Create(ctx, metal3, inCluster, made[0].workers, made[1].workers); err != nil {
		return nil, err
	}
	for _, g := range made {
		nodes, err := s.AwaitNodes(ctx, g.workers, nodesTimeout)
		if err != nil {
			return nil, err
		}
		g.nodes = nodes
	}
	return made, nil
}

// show prints who has which address, and finds out whether each virtual machine
// was given what its machine has.
func (s sample) show(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "MACHINE\tPOOL\tADDRESS\tVIRTUAL MACHINE\tIN ITS METADATA\tIN ITS GUEST")
	var wrong []error
	for _, g := range s {
		for _, node := range g.nodes {
			addresses := harness.Addresses(node.Machine)
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", node.Machine.Name, g.pool, strings.Join(addresses, ","),
				node.VM.ID, strings.Join(node.VM.Addresses, ","), strings.Join(node.VM.Reported, ","))
			if len(addresses) != 1 || !slices.Equal(addresses, node.VM.Addresses) {
				wrong = append(wrong, fmt.Errorf("machine %s has addresses %v, its virtual machine %v",
					node.Machine.Name, addresses, node.VM.Addresses))
			}
			if !strings.Contains(node.VM.Metadata, `gateway4: "`+g.gateway+`"`) {
				wrong = append(wrong, fmt.Errorf("the virtual machine of %s does not know gateway %s; its metadata is\n%s",
					node.Machine.Name, g.gateway, node.VM.Metadata))
			}
		}
	}
	return errors.Join(append(wrong, table.Flush())...)
}

// suggest says what can be done with all that runs. What the plugin can do comes first.
func suggest(to io.Writer, s *stack.Stack, plugin func(io.Writer)) {
	fmt.Fprintf(to, "\nIn another terminal:\n\n  export KUBECONFIG=%s\n", s.Plane.Kubeconfig)
	plugin(to)
	for _, line := range []string{
		"  # three more machines: the pool is full with six",
		"  kubectl scale machinedeployment dkp-metal3 --replicas=6",
		"",
		"  # one too many: refused, and why; it comes as soon as an address is free",
		"  kubectl scale machinedeployment dkp-metal3 --replicas=7",
		"  kubectl static-ip explain machinedeployment/dkp-metal3",
		"  kubectl events --types=Warning",
		"  kubectl scale machinedeployment dkp-metal3 --replicas=2",
		"",
		"  # replace every machine",
		"  kubectl patch machinedeployment dkp-in-cluster --type=merge -p \"{\\\"spec\\\":{\\\"rollout\\\":{\\\"after\\\":\\\"$(date -u +%FT%TZ)\\\"}}}\"",
		"  kubectl get machines --watch",
		"",
		"  # the virtual machines, with what they were told, and all that happened to them",
		"  curl -s " + s.VCenter.StateURL() + "/vms",
		"  curl -s " + s.VCenter.StateURL() + "/events",
		"",
		"  # what capv-static-ip says and counts",
		"  tail -f " + s.Managers[0].LogPath,
		"  curl -s http://" + s.Managers[0].MetricsAddress() + "/metrics | grep ^capv_static_ip",
		"",
		"The logs of all programs are in " + s.Plane.Dir + ".",
		"Ctrl-C ends all of it.",
	} {
		fmt.Fprintln(to, line)
	}
}
