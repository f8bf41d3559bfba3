package main

import (
	"context"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

// seeAudit says where the problems of a pool are told.
const seeAudit = ", see audit"

func newPools(o *options) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "pools", Short: "How full are the pools", Args: cobra.NoArgs,
		Long: "How full are the pools. Those that need attention come first.\n\n" +
			"Problems are what audit finds in a pool. They are looked for a second time two seconds later, " +
			"and told only if they are still there.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return o.watchPools(cmd.Context())
			}
			graph, problems, err := o.readWithProblems(cmd.Context())
			if err != nil {
				return err
			}
			return o.showOf(graph, poolList(graph, problems))
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "After that, show each pool again that has changed, until it is interrupted.")
	return cmd
}

// readWithProblems reads what the flags say, and finds what is wrong in its pools.
func (o *options) readWithProblems(ctx context.Context) (*inventory.Graph, inventory.Problems, error) {
	source, err := o.sourceHere()
	if err != nil {
		return nil, nil, err
	}
	graph, err := o.readFrom(ctx, source)
	if err != nil {
		return nil, nil, err
	}
	report, err := source.AuditOf(ctx, graph, inventory.OutsideLimits(), inventory.SecondLook, inventory.ChecksOfPools()...)
	if err != nil {
		return nil, nil, exit{exitUnreachable, err}
	}
	return graph, inventory.ProblemsOf(report.Findings), nil
}

func poolList(graph *inventory.Graph, problems inventory.Problems) *list {
	l := &list{kind: "Pool", columns: []column{
		{name: "NAMESPACE"}, {name: "POOL"}, {name: "TOTAL"}, {name: "USED"}, {name: "COOLING"},
		{name: "RESERVED", wide: true}, {name: "FREE"}, {name: "SURGE"}, {name: "STATUS"},
	}}
	for _, s := range graph.Summaries(problems) {
		key := s.PoolKey
		key.Namespace = ""
		item := &v1alpha1.Pool{
			Metadata: meta(s.Namespace, s.Name), Pool: key.String(), Used: s.Used, Cooling: s.Cooling,
			Surge: s.Surge, Waiting: len(s.Waiting), Problems: s.Problems, Status: s.InAll(seeAudit),
		}
		total, reserved, free := "-", "-", "-"
		if s.Known {
			item.Total, item.Reserved, item.Free = s.Total.String(), s.Reserved.String(), s.Free.String()
			total, reserved, free = inventory.InWords(s.Total), inventory.InWords(s.Reserved), inventory.InWords(s.Free)
		}
		l.add(item, s.Namespace, key.String(), total, s.Used, s.Cooling, reserved, free, s.Surge, painted{item.Status, colourOf(s)})
	}
	return l
}

// colourOf is that of a pool's status.
func colourOf(s inventory.Summary) colour {
	switch {
	case s.Urgent:
		return red
	case s.Attention || s.Problems > 0:
		return yellow
	}
	return green
}

func meta(namespace, name string) v1alpha1.Meta {
	return v1alpha1.Meta{Namespace: namespace, Name: name}
}
