package main

import (
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
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

// completeDeployment are the Deployments, as NAMESPACE/NAME.
func (o *options) completeDeployment(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	*o.config.Timeout = completionTime
	c, err := o.connect(nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	deployments := &appsv1.DeploymentList{}
	if err := c.List(cmd.Context(), deployments); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range deployments.Items {
		names = append(names, deployments.Items[i].Namespace+"/"+deployments.Items[i].Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
