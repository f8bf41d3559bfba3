package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"capv-static-ip.dev/tests/stack"
)

// plugin is kubectl static-ip, built for the lab.
type plugin struct {
	// dir is a folder to put on the PATH. kubectl finds the plugin there by its name.
	dir        string
	kubectl    string
	kubeconfig string
}

// trial is a command to try, for people.
type trial struct {
	what string
	args []string
}

// buildPlugin builds the plugin, with what kubectl asks how to complete its arguments.
func buildPlugin(ctx context.Context, s *stack.Stack) (*plugin, error) {
	kubectl, err := s.Plane.Kubectl(ctx)
	if err != nil {
		return nil, err
	}
	p := &plugin{dir: filepath.Join(s.Plane.Dir, "plugin"), kubectl: kubectl, kubeconfig: s.Plane.Kubeconfig}
	output, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(p.dir, "kubectl-static_ip"), "./cmd/kubectl-static_ip").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("building the plugin: %w\n%s", err, output)
	}
	const completion = "kubectl_complete-static_ip"
	script, err := os.ReadFile(filepath.Join("cmd", "kubectl-static_ip", completion))
	if err != nil {
		return nil, err
	}
	return p, os.WriteFile(filepath.Join(p.dir, completion), script, 0o755) //nolint:gosec // kubectl runs it
}

// trials are the commands that fit what the lab has made.
func (s sample) trials() []trial {
	node := s[0].nodes[0]
	address, _, _ := strings.Cut(node.Machine.Spec.Network.Devices[0].IPAddrs[0], "/")
	return []trial{
		{"how full the pools are, and who has their addresses", []string{"pools"}},
		{"", []string{"pool", "dkp-cluster", "--grid"}},
		{"", []string{"machines"}},
		{"everything that knows an address", []string{"who", address}},
		{"why this address, and what becomes of it", []string{"explain", "vspheremachine/" + node.Machine.Name}},
		{"is there room for the next roll-out", []string{"explain", "machinedeployment/" + s[0].workers.Name}},
		{"", []string{"capacity"}},
	}
}

// try runs all of the trials by kubectl, as people do.
func (p *plugin) try(ctx context.Context, trials []trial) error {
	var failed []error
	for _, t := range trials {
		cmd := exec.CommandContext(ctx, p.kubectl, append([]string{"static-ip"}, t.args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "PATH="+p.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
		if output, err := cmd.CombinedOutput(); err != nil {
			failed = append(failed, fmt.Errorf("trying kubectl static-ip %s: %w\n%s", strings.Join(t.args, " "), err, output))
		}
	}
	return errors.Join(failed...)
}

// suggest says what can be tried.
func (p *plugin) suggest(to io.Writer, trials []trial) {
	fmt.Fprintln(to, "  export PATH="+p.dir+":$PATH")
	for _, t := range trials {
		if t.what != "" {
			fmt.Fprintf(to, "\n  # %s\n", t.what)
		}
		fmt.Fprintln(to, "  kubectl static-ip "+strings.Join(t.args, " "))
	}
	fmt.Fprintln(to)
}
