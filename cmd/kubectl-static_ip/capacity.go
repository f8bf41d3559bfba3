package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

func newCapacity(o *options) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "capacity [CLUSTER]", Short: "Is there room for the next roll-out or scale-up", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster := strings.Join(args, "")
			graph, err := o.readHere(cmd.Context())
			if err != nil {
				return err
			}
			l, short := demandList(graph, cluster)
			if err := o.show(l); err != nil {
				return err
			}
			if cluster != "" && o.isTable() {
				o.stalls(cluster, short)
			}
			if check && len(short) > 0 {
				return exit{code: exitNo}
			}
			return seen(graph)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "Exit with 1 if a roll-out would stall for want of addresses.")
	return cmd
}

// stalls says in a sentence each where the upgrade of a Cluster would stall.
func (o *options) stalls(cluster string, short []inventory.Demand) {
	for _, d := range short {
		at := fmt.Sprintf("%s %q", d.GetKind(), d.GetName())
		fmt.Fprintf(o.streams.Out, "The upgrade of Cluster %q would stall at its %s: %d short in %s.\n", cluster, at, d.Short(), d.PoolNames())
	}
}

// demandList is what each workload needs, and those of them that pools are too small for.
func demandList(graph *inventory.Graph, cluster string) (l *list, short []inventory.Demand) {
	l = &list{kind: "Demand", columns: []column{
		{name: "POOL"}, {name: "FREE"}, {name: "COOLING"}, {name: "OWNER"}, {name: "HAS"}, {name: "MISSING"}, {name: "ROLL-OUT"},
		{name: "AUTOSCALER MAX"}, {name: "COOLS", wide: true}, {name: "ALL OWNERS", wide: true}, {name: "VERDICT"},
	}}
	demands := graph.Demands()
	for _, d := range demands {
		if cluster != "" && d.Cluster != cluster {
			continue
		}
		item, free := demandOf(d, demands), "-"
		if known, ok := d.Free(); ok {
			free, item.Free = inventory.InWords(known), known.String()
		}
		if item.Short > 0 {
			short = append(short, d)
		}
		l.add(item, d.PoolNames(), free, d.Cooling(), item.Owner, d.Has, plus(d.Scale), plus(d.RollOut), plus(d.Max),
			plus(d.Cools), plus(item.AllOwners), verdict(item))
	}
	return l, short
}

func demandOf(d inventory.Demand, all []inventory.Demand) *v1alpha1.Demand {
	item := &v1alpha1.Demand{
		Metadata: meta(d.GetNamespace(), d.GetName()), Pool: d.Pool.String(), Owner: d.GetKind() + "/" + d.GetName(),
		Has: d.Has, RollOut: d.RollOut, Scale: d.Scale, Max: d.Max, Cools: d.Cools, AllOwners: inventory.SurgeOfAll(d.Pool, all),
		Short: d.Short(), Note: d.Note,
	}
	for _, pool := range d.Else {
		item.Else = append(item.Else, pool.String())
	}
	return item
}

func verdict(item *v1alpha1.Demand) painted {
	says := painted{"enough", green}
	switch {
	case item.Short > 0:
		says = painted{fmt.Sprintf("%d short", item.Short), red}
	case item.Free == "":
		return painted{"not known", yellow}
	}
	if item.Note != "" {
		says.text += "; " + item.Note
	}
	return says
}

// plus is a number that comes on top, a dash if there is none.
func plus(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("+%d", n)
}
