package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/inventory"
)

// demandItem is what -o json prints of what a workload needs.
type demandItem struct {
	Metadata meta   `json:"metadata"`
	Pool     string `json:"pool"`
	// Else are pools that will do as well; free and cooling are those of all.
	Else      []string `json:"else,omitempty"`
	Owner     string   `json:"owner"`
	Free      string   `json:"free,omitempty"`
	Has       int      `json:"has"`
	RollOut   int      `json:"rollOut"`
	Scale     int      `json:"scale"`
	Max       int      `json:"autoscalerMax"`
	Cools     int      `json:"cools"`
	AllOwners int      `json:"allOwners"`
	Short     int      `json:"short"`
	Note      string   `json:"note,omitempty"`
}

func newCapacity(o *options) *cobra.Command {
	var cluster string
	var check bool
	cmd := &cobra.Command{
		Use: "capacity", Short: "Is there room for the next roll-out or scale-up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	cmd.Flags().StringVar(&cluster, "cluster", "", "Look at this Cluster only.")
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

func demandOf(d inventory.Demand, all []inventory.Demand) *demandItem {
	item := &demandItem{
		Metadata: meta{d.GetNamespace(), d.GetName()}, Pool: d.Pool.String(), Owner: d.GetKind() + "/" + d.GetName(),
		Has: d.Has, RollOut: d.RollOut, Scale: d.Scale, Max: d.Max, Cools: d.Cools, AllOwners: inventory.SurgeOfAll(d.Pool, all),
		Short: d.Short(), Note: d.Note,
	}
	for _, pool := range d.Else {
		item.Else = append(item.Else, pool.String())
	}
	return item
}

func verdict(item *demandItem) string {
	text := "enough"
	switch {
	case item.Short > 0:
		text = fmt.Sprintf("%d short", item.Short)
	case item.Free == "":
		return "not known"
	}
	if item.Note != "" {
		text += "; " + item.Note
	}
	return text
}

// plus is a number that comes on top, a dash if there is none.
func plus(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("+%d", n)
}
