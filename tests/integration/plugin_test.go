package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

// builtPlugin is the path of kubectl-static_ip, which is built once.
var builtPlugin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kubectl-static-ip-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kubectl-static_ip")
	output, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/kubectl-static_ip").CombinedOutput()
	if err != nil {
		return "", errors.Join(err, errors.New(string(output)))
	}
	return path, nil
})

// plugin runs kubectl static-ip in the scene's namespace, and returns what it printed and
// its exit code. The names and times that differ from run to run are taken out.
func (s *scene) plugin(args ...string) (stdout, stderr string, code int) {
	s.Helper()
	path, err := builtPlugin()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Context(), path, append([]string{"--kubeconfig", s.env.Kubeconfig, "--namespace", s.ns}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exited *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exited) {
		s.Fatal(err)
	}
	return s.stable(out.String()), s.stable(errs.String()), cmd.ProcessState.ExitCode()
}

var (
	spaces = regexp.MustCompile(` {2,}`)
	ages   = regexp.MustCompile(` (\d+s|\d+m(\d+s)?)\n`)
)

func (s *scene) stable(text string) string {
	text = spaces.ReplaceAllString(strings.ReplaceAll(text, s.ns, "NAMESPACE"), "  ")
	return ages.ReplaceAllString(text, " AGE\n")
}

// expectPlugin checks all that the plugin prints, and its exit code.
func (s *scene) expectPlugin(code int, want string, args ...string) {
	s.Helper()
	stdout, stderr, got := s.plugin(args...)
	if stdout != want || got != code {
		s.Errorf("kubectl static-ip %s exits with %d and prints\n%s\n%s\nwant %d and\n%s", strings.Join(args, " "), got, stdout, stderr, code, want)
	}
}

func TestPluginShowsWhoHasWhat(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 90))
	s.create(s.asks(f, "cp-0"), s.asks(f, "cp-1"))
	s.eventually("the addresses to be adopted", s.adopted("cp-0", "cp-1"))
	by := harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.StaticDevice()))
	by.Spec.Network.Devices[0].IPAddrs = []string{f.IP(91) + "/24"}
	s.create(by)

	s.expectPlugin(0, `NAMESPACE  POOL  TOTAL  USED  COOLING  FREE  SURGE  STATUS
NAMESPACE  IPPool/dkp-cluster  3  2  0  1  0  OK
`, "pools")
	_, _, code := s.plugin("pool", "nowhere")
	if code != 1 {
		t.Errorf("a pool that does not exist has the exit code %d, want 1", code)
	}
	stdout, _, _ := s.plugin("pool", "IPPool/dkp-cluster", "--grid")
	for _, want := range []string{
		"NAMESPACE/IPPool/dkp-cluster\n3 addresses: 2 used, 0 cooling, 0 reserved, 1 free.\n", "##.\n",
		"VSphereMachine/cp-0", "VSphereMachine/cp-1", "0 VM Network",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("pool prints\n%s\nwant %q in it", stdout, want)
		}
	}
	stdout, _, _ = s.plugin("machines", "--no-headers")
	for _, want := range []string{"NAMESPACE  by-hand  " + f.IP(91) + "/24  -  ", "NAMESPACE  cp-0  " + f.IP(88), "IPPool/dkp-cluster"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("machines prints\n%s\nwant %q in it", stdout, want)
		}
	}
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

func TestPluginKnowsWhoHasAnAddress(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 171))
	s.create(s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	held, _, _ := strings.Cut(harness.Addresses(s.machine("cp-0"))[0], "/")
	twice := harness.Machine(s.ns, "by-hand", harness.WithDevices(harness.StaticDevice()))
	twice.Spec.Network.Devices[0].IPAddrs = []string{held + "/24"}
	s.create(twice)

	stdout, _, code := s.plugin("who", held)

	if code != 1 {
		t.Errorf("an address on two machines has the exit code %d, want 1", code)
	}
	for _, want := range []string{
		"is in NAMESPACE/InClusterIPPool/", "used by VSphereMachine NAMESPACE/cp-0", "claim cp-0-0", "protected",
		"on VSphereMachine NAMESPACE/cp-0: held", "on VSphereMachine NAMESPACE/by-hand: written by hand, no claim",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("who prints\n%s\nwant %q in it", stdout, want)
		}
	}
	if _, stderr, code := s.plugin("who", "no-address"); code != 2 || !strings.Contains(stderr, `"no-address" is no address`) {
		t.Errorf("got %d and %q, want to be told that it is no address", code, stderr)
	}
	s.delete(twice)
}

func TestPluginExplainsWhyThereIsAnAddressAndWhyNone(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfMetal3
	s.pool(f, f.WithIPs(88, 88))
	template := harness.Template(s.ns, "md", f.Ask(f.PoolName))
	set := harness.MachineSet(s.ns, "md-0", template.Name)
	s.create(template, set, s.asks(f, "cp-0"))
	s.eventually("the address to be adopted", s.adopted("cp-0"))
	silent := harness.Machine(s.ns, "silent", withPoolOf("eth7", "dkp-cluster"))
	silent.Annotations = nil
	s.create(silent)

	s.eventually("the owner to carry its refusal", func(context.Context) error {
		// It is made to try again, after longer and longer pauses.
		s.refused(harness.Clone(template, "md-0-x", harness.WithOwner(set)), "is exhausted")
		stdout, _, code := s.plugin("explain", "machineset/md-0")
		if code != 1 || !strings.Contains(stdout, "1 of NAMESPACE/IPPool/dkp-cluster: 0 of 1 free, 1 used, 0 cooling") {
			return errors.New(stdout)
		}
		return nil
	})
	stdout, _, code := s.plugin("explain", "vspheremachine/cp-0")
	for _, want := range []string{f.IP(88) + "/24", "claim  cp-0-0, bound", "0 of 1 free", "protected", "As it should be."} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("explain exits with %d and prints\n%s\nwant %q in it", code, stdout, want)
		}
	}
	stdout, _, code = s.plugin("explain", "machine/silent")
	if code != 1 || !strings.Contains(stdout, "it has no source of addresses") || !strings.Contains(stdout, "Now: ") {
		t.Errorf("explain exits with %d and prints\n%s\nwant that there is no source of addresses", code, stdout)
	}
	s.delete(set)
}

func TestPluginPrintsJSON(t *testing.T) {
	s := newScene(t, shared)
	f := harness.OfInCluster
	s.pool(f, f.WithIPs(170, 173))

	stdout, _, _ := s.plugin("pools", "-o", "json")

	var all struct {
		APIVersion, Kind string
		Items            []struct {
			APIVersion, Kind, Pool, Total, Free string
			Used                                int
		}
	}
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatal(err)
	}
	if all.APIVersion != "cli.capv-static-ip.dev/v1alpha1" || all.Kind != "PoolList" || len(all.Items) != 1 {
		t.Fatalf("got %+v, want a PoolList of one", all)
	}
	if got := all.Items[0]; got.Kind != "Pool" || got.Total != "4" || got.Free != "4" || got.Used != 0 {
		t.Errorf("got %+v, want four addresses, all free", got)
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
