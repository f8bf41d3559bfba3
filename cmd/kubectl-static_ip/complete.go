package main

import (
	"github.com/spf13/cobra"
)

// completionTime is how long a shell waits for the names of pools.
const completionTime = "2s"

// completePool are the pools that can be named, for the shell. Whatever fails, there are
// none.
func (o *options) completePool(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	*o.config.Timeout = completionTime
	graph, err := o.readHere(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, pool := range graph.Pools {
		names = append(names, pool.KindName()+"/"+pool.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
