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
	Owner    string `json:"owner"`
	Free     string `json:"free,omitempty"`
	Has      int    `json:"has"`
	RollOut  int    `json:"rollOut"`
	Scale    int    `json:"scale"`
	Max      int    `json:"autoscalerMax"`
	Short    int    `json:"short"`
	Note     string `json:"note,omitempty"`
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
			if check && short > 0 {
				return exit{code: exitNo}
			}
			return seen(graph)
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "Look at this Cluster only.")
	cmd.Flags().BoolVar(&check, "check", false, "Exit with 1 if a roll-out would stall for want of addresses.")
	return cmd
}

func demandList(graph *inventory.Graph, cluster string) (l *list, short int) {
	l = &list{kind: "Demand", columns: []column{
		{name: "POOL"}, {name: "FREE"}, {name: "COOLING"}, {name: "OWNER"}, {name: "HAS"}, {name: "MISSING"}, {name: "ROLL-OUT"},
		{name: "AUTOSCALER MAX"}, {name: "VERDICT"},
	}}
	for _, d := range graph.Demands() {
		if cluster != "" && d.Cluster != cluster {
			continue
		}
		usage, free := d.Pool.Usage(), "-"
		item := &demandItem{
			Metadata: meta{d.GetNamespace(), d.GetName()}, Pool: d.Pool.String(), Owner: d.GetKind() + "/" + d.GetName(),
			Has: d.Has, RollOut: d.RollOut, Scale: d.Scale, Max: d.Max, Short: d.Short(), Note: d.Note,
		}
		if usage.Known {
			free, item.Free = inventory.InWords(usage.Free), usage.Free.String()
		}
		verdict := "enough"
		switch {
		case item.Short > 0:
			verdict = fmt.Sprintf("%d short", item.Short)
			short++
		case !usage.Known:
			verdict = "not known"
		case d.Note != "":
			verdict += "; " + d.Note
		}
		l.add(item, item.Pool, free, usage.Cooling, item.Owner, d.Has, plus(d.Scale), plus(d.RollOut), plus(d.Max), verdict)
	}
	return l, short
}

// plus is a number that comes on top, a dash if there is none.
func plus(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("+%d", n)
}
