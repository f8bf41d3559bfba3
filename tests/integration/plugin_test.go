package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

// pluginDir is where the plugin is built, empty if it was not.
var pluginDir string

// builtPlugin is the path of kubectl-static_ip, which is built once.
var builtPlugin = sync.OnceValues(func() (path string, err error) {
	if pluginDir, err = os.MkdirTemp("", "kubectl-static-ip-"); err != nil {
		return "", err
	}
	return harness.BuildPlugin(context.Background(), filepath.Join("..", ".."), pluginDir)
})

// removePlugin takes away what builtPlugin has built.
func removePlugin() error {
	if pluginDir == "" {
		return nil
	}
	return os.RemoveAll(pluginDir)
}

// plugin runs kubectl static-ip in the scene's namespace, and returns what it printed and
// its exit code. The names and times that differ from run to run are taken out.
func (s *scene) plugin(args ...string) (stdout, stderr string, code int) {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Context(), path, s.pluginArgs(args)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		s.Fatal(err)
	}
	return s.stable(out.String()), s.stable(errs.String()), cmd.ProcessState.ExitCode()
}

// pluginArgs are arguments with the flags after them: completion wants to be the first.
func (s *scene) pluginArgs(args []string) []string {
	flags := []string{"--kubeconfig", s.env.Kubeconfig, "--namespace", s.ns}
	if args[0] == "__complete" {
		return slices.Concat(args[:1], flags, args[1:])
	}
	return slices.Concat(args, flags)
}

// printed is what a program has printed until now.
type printed struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (p *printed) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

// String is what was printed.
func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// pluginWatches runs the plugin until stop interrupts it, which returns its exit code.
func (s *scene) pluginWatches(args ...string) (output *printed, stop func() int) {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	output = &printed{}
	cmd := exec.CommandContext(s.Context(), path, s.pluginArgs(args)...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	return output, func() int {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			s.Error(err)
		}
		// That it ends with another code is for the caller to judge.
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
}

// unstable are the texts that differ from run to run, and what stands for them.
var unstable = []struct {
	text *regexp.Regexp
	is   string
}{
	{regexp.MustCompile(` {2,}`), "  "},
	{regexp.MustCompile(`(?m) +$`), ""},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(` (\d+s|\d+m(\d+s)?)(\n|  )`), " AGE$3"},
	{regexp.MustCompile(`\d+(s|m|m\d+s) ago`), "AGE ago"},
	{regexp.MustCompile(`(once|\d+ times), last`), "N times, last"},
	{regexp.MustCompile(`since \d+m0s`), "since AGE"},
	{regexp.MustCompile(`in \d+(\.\d+)?s \(`), "in AGE ("},
}

func (s *scene) stable(text string) string {
	text = strings.ReplaceAll(text, s.ns, "NAMESPACE")
	for _, u := range unstable {
		text = u.text.ReplaceAllString(text, u.is)
	}
	return text
}

// adopted tells whether these machines own their claims.
func (s *scene) adopted(machines ...string) func(ctx context.Context) error {
	return func(context.Context) error {
		for _, name := range machines {
			address, _, _ := strings.Cut(harness.Addresses(s.machine(name))[0], "/")
			if err := s.isAdopted(name, address); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestPluginSaysWhatItMayNotSee(t *testing.T) {
	s := newScene(t, shared)
	s.pool(harness.OfInCluster)

	stdout, stderr, code := s.plugin("pools", "--as", "nobody-in-particular")

	if code != 4 || stdout != "" || !strings.Contains(stderr, "forbidden") {
		t.Errorf("got %d, %q and %q, want to be told that it is forbidden", code, stdout, stderr)
	}
}
