package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// visitTimeout is how long a page may take to be there.
const visitTimeout = time.Minute

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
	// code is what it exits with here, and says a word of what it prints.
	code int
	says string
	// serves says that it goes on until it is interrupted, and prints the link of a page
	// first, which says the word.
	serves bool
}

// buildPlugin builds the plugin, with what kubectl asks how to complete its arguments.
func buildPlugin(ctx context.Context, s *stack.Stack) (*plugin, error) {
	kubectl, err := s.Plane.Kubectl(ctx)
	if err != nil {
		return nil, err
	}
	p := &plugin{dir: filepath.Join(s.Plane.Dir, "plugin"), kubectl: kubectl, kubeconfig: s.Plane.Kubeconfig}
	if _, err := harness.BuildPlugin(ctx, s.Plane.Root(), p.dir); err != nil {
		return nil, err
	}
	const completion = "kubectl_complete-static_ip"
	script, err := os.ReadFile(filepath.Join("cmd", "kubectl-static_ip", completion))
	if err != nil {
		return nil, err
	}
	return p, os.WriteFile(filepath.Join(p.dir, completion), script, 0o755) //nolint:gosec // kubectl runs it
}

// trials are all commands, as they fit what the lab has made. Of one that writes, it is the
// plan alone.
func (s sample) trials() []trial {
	node, pool := s[0].nodes[0], harness.DefaultPool
	address, _, _ := strings.Cut(node.Machine.Spec.Network.Devices[0].IPAddrs[0], "/")
	workers := "machinedeployment/" + s[0].workers.Name
	return []trial{
		{what: "how full the pools are, and who has their addresses", args: []string{"pools"}, says: pool},
		{args: []string{"pool", pool, "--grid"}, says: address},
		{args: []string{"machines"}, says: address},
		{what: "everything that knows an address", args: []string{"who", address}, says: node.Machine.Name},
		{what: "why this address, and what becomes of it", args: []string{"explain", "vspheremachine/" + node.Machine.Name}, says: "As it should be."},
		{args: []string{"explain", workers}, says: "As it should be."},
		{what: "is there room for the next roll-out", args: []string{"capacity", harness.DefaultCluster, "--check"}, says: "enough"},
		{what: "what more machines would get", args: []string{"preview", workers, "--replicas=5"}, says: "would claim 1 address"},
		{what: "and too many of them (the exit code is 1)", args: []string{"preview", workers, "--replicas=7"}, code: 1, says: "would be refused"},
		{what: "what is wrong: no Pod is behind the Service here, and a pool would stay behind in a move (the exit code is 1)", args: []string{"audit"}, code: 1, says: "SIP-015"},
		{what: "does the installation work (there is no Deployment here: the exit code is 1)", args: []string{"check"}, code: 1, says: "asked us about a machine"},
		{args: []string{"version", "--client"}, says: "client"},
		{what: "move the addresses to another pool, which has to be there (the exit code is 1)", args: []string{"migrate", "--from=IPPool/" + pool, "--to=InClusterIPPool/moved"}, code: 1, says: "no pool"},
		{what: "keep an address from being handed out until you decide", args: []string{"reserve", "IPPool/" + pool, harness.OfMetal3.IP(93)}, says: "reserved-" + harness.OfMetal3.IP(93)},
		{what: "what it would take to come over from the static IP adapter, which is not here", args: []string{"adopt-adapter"}, says: "nothing to do"},
		{what: "what it would take to remove it, and what is in the way (the exit code is 1)", args: []string{"uninstall", "--keep-machines", "--dry-run"}, code: 1, says: "these still rely on capv-static-ip"},
		{what: "all of it on a page", args: []string{"web"}, says: pool, serves: true},
	}
}

// try runs all of the trials by kubectl, as people do.
func (p *plugin) try(ctx context.Context, trials []trial) error {
	var failed []error
	for _, t := range trials {
		run := p.run
		if t.serves {
			run = p.visit
		}
		if err := run(ctx, t); err != nil {
			failed = append(failed, fmt.Errorf("trying kubectl static-ip %s: %w", strings.Join(t.args, " "), err))
		}
	}
	return errors.Join(failed...)
}

// command is one of the plugin's.
func (p *plugin) command(ctx context.Context, args ...string) *exec.Cmd {
	return p.anyCommand(ctx, append([]string{"static-ip"}, args...)...)
}

// anyCommand is one of kubectl.
func (p *plugin) anyCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "PATH="+p.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return cmd
}

// run runs a command to its end.
func (p *plugin) run(ctx context.Context, t trial) error {
	cmd := p.command(ctx, t.args...)
	output, err := cmd.CombinedOutput()
	var exited *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exited):
		return err
	case cmd.ProcessState.ExitCode() != t.code:
		return fmt.Errorf("it exits with %d, want %d:\n%s", cmd.ProcessState.ExitCode(), t.code, output)
	case !strings.Contains(string(output), t.says):
		return fmt.Errorf("it does not say %q:\n%s", t.says, output)
	}
	return nil
}

// visit follows the link that a command prints, and ends it.
func (p *plugin) visit(ctx context.Context, t trial) error {
	limited, cancel := context.WithTimeout(ctx, visitTimeout)
	defer cancel()
	cmd := p.command(limited, append(t.args, "--no-browser")...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	visited := follow(limited, stdout, t.says)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return errors.Join(visited, err)
	}
	if err := cmd.Wait(); err != nil {
		return errors.Join(visited, fmt.Errorf("after an interrupt: %w", err))
	}
	return visited
}

// follow reads a link, and looks for a word on the page that it leads to.
func follow(ctx context.Context, from io.Reader, says string) error {
	link, err := bufio.NewReader(from).ReadString('\n')
	if err != nil {
		return fmt.Errorf("it prints no link: %w", err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSpace(link), http.NoBody)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Jar: jar}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !strings.Contains(string(page), says) {
		return fmt.Errorf("its page has the status %d, and says, without %q:\n%s", answer.StatusCode, says, page)
	}
	return nil
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
