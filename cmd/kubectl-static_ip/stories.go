package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/inventory"
)

func newWho(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "who ADDRESS...", Short: "Everything that knows an address", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ips []netip.Addr
			for _, text := range args {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					return exit{exitUsage, fmt.Errorf("%q is no address: write one as 10.16.56.93", text)}
				}
				ips = append(ips, ip.Unmap())
			}
			// Who has an address may be in any namespace.
			graph, err := o.read(cmd.Context(), "")
			if err != nil {
				return err
			}
			wrong := false
			for _, ip := range ips {
				story := graph.Who(ip)
				wrong = wrong || story.Wrong
				o.tell(story)
			}
			if wrong {
				return exit{code: exitNo}
			}
			return seen(graph)
		},
	}
}

func (o *options) tell(story inventory.Story) {
	fmt.Fprintln(o.streams.Out, story.Title)
	for _, line := range story.Lines {
		fmt.Fprintln(o.streams.Out, "  "+line)
	}
	if story.Next != "" {
		fmt.Fprintln(o.streams.Out, "Now: "+story.Next)
	}
}

func newExplain(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "explain KIND/NAME",
		Short: "Why this address, or why none, and what to do next",
		Long: "Why this address, or why none, and what to do next.\n\n" +
			"KIND is vspheremachine, machineset, machinedeployment, or kubeadmcontrolplane. " +
			"The exit code is 1 if something is not as it should be.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, ok := strings.Cut(args[0], "/")
			if !ok {
				return exit{exitUsage, fmt.Errorf("%q is not KIND/NAME, as in vspheremachine/md-0-4x2bs", args[0])}
			}
			namespace, _, err := o.config.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return exit{exitUnreachable, err}
			}
			graph, err := o.read(cmd.Context(), "")
			if err != nil {
				return err
			}
			story, err := explain(graph, kind, types.NamespacedName{Namespace: namespace, Name: name})
			if err != nil {
				return err
			}
			o.tell(story)
			if story.Wrong {
				return exit{code: exitNo}
			}
			return seen(graph)
		},
	}
}

func explain(graph *inventory.Graph, kind string, key types.NamespacedName) (inventory.Story, error) {
	none := exit{exitNo, fmt.Errorf("no %s %q in namespace %q", kind, key.Name, key.Namespace)}
	switch strings.ToLower(kind) {
	case "vspheremachine", "vspheremachines", "machine", "machines":
		// CAPI gives both the same name.
		if m := graph.Machine(key); m != nil {
			return graph.ExplainMachine(m), nil
		}
		return inventory.Story{}, none
	case "machineset", "machinesets", "ms":
		return graph.ExplainOwner("MachineSet", key), nil
	case "machinedeployment", "machinedeployments", "md", "kubeadmcontrolplane", "kubeadmcontrolplanes", "kcp":
		for _, w := range graph.Workloads {
			isDeployment := strings.HasPrefix(strings.ToLower(kind), "m")
			if w.GetNamespace() == key.Namespace && w.GetName() == key.Name && isDeployment == (w.GetKind() == "MachineDeployment") {
				return graph.ExplainWorkload(w), nil
			}
		}
		return inventory.Story{}, none
	default:
		return inventory.Story{}, exit{exitUsage, fmt.Errorf("kind %q is none of vspheremachine, machineset, machinedeployment, kubeadmcontrolplane", kind)}
	}
}
