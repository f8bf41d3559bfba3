package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

func newMachines(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "machines", Aliases: []string{"get"}, Short: "The machines with their addresses", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			graph, err := o.readHere(cmd.Context())
			if err != nil {
				return err
			}
			return o.showOf(graph, machineList(graph))
		},
	}
}

func machineList(graph *inventory.Graph) *list {
	l := &list{kind: "Machine", columns: []column{
		{name: "NAMESPACE"}, {name: "NAME"}, {name: "ADDRESSES"}, {name: "POOLS"}, {name: "CLUSTER"}, {name: "VM"}, {name: "WAITING FOR"}, {name: "AGE"},
	}}
	for _, m := range graph.Machines {
		item := &v1alpha1.Machine{
			Metadata: meta(m.Namespace, m.Name), Addresses: []string{}, Cluster: m.Labels[clusterv1.ClusterNameLabel], VM: graph.VMState(m),
			WaitingFor: graph.WaitsFor(m),
		}
		for _, device := range m.Spec.Network.Devices {
			item.Addresses = append(item.Addresses, device.IPAddrs...)
		}
		for _, b := range m.Bindings {
			if pool := b.Pool.Kind + "/" + b.Pool.Name; !slices.Contains(item.Pools, pool) {
				item.Pools = append(item.Pools, pool)
			}
		}
		l.add(item, m.Namespace, m.Name, orDash(strings.Join(item.Addresses, ",")), orDash(strings.Join(item.Pools, ",")),
			orDash(item.Cluster), orDash(item.VM), orDash(item.WaitingFor), ageOf(graph.At, m.CreationTimestamp.Time))
	}
	return l
}
