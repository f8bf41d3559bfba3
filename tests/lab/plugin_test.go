package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/stack"
)

// docs/cli.md is made of the commands.
func TestEveryCommandIsTried(t *testing.T) {
	reference, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	machine := &capvv1.VSphereMachine{}
	machine.Name = "md-0-x"
	machine.Spec.Network.Devices = []capvv1.NetworkDeviceSpec{{IPAddrs: []string{"10.0.0.2/24"}}}
	made := sample{{workers: &clusterv1.MachineDeployment{}, nodes: []stack.Node{{Machine: machine}}}}
	var tried []string
	for _, trial := range made.trials() {
		tried = append(tried, trial.args[0])
		if trial.says == "" {
			t.Errorf("nothing is expected of %v", trial.args)
		}
	}
	for line := range strings.Lines(string(reference)) {
		name, isCommand := strings.CutPrefix(strings.TrimSpace(line), "## ")
		if isCommand && name != "Flags of all commands" && !slices.Contains(tried, name) {
			t.Errorf("%s is not tried", name)
		}
	}
}

func TestPlayIsFoundByItsName(t *testing.T) {
	if _, playing, err := playNamed(""); playing || err != nil {
		t.Errorf("without a name it plays is %v, %v", playing, err)
	}
	for name, p := range plays() {
		if found, playing, err := playNamed(name); !playing || err != nil || found.what != p.what || p.act == nil {
			t.Errorf("play %q: got %+v, %v, %v", name, found, playing, err)
		}
	}
	if _, _, err := playNamed("hamlet"); err == nil || !strings.Contains(err.Error(), "adapter") {
		t.Errorf("got %v, want the names that there are", err)
	}
}

func TestWhatIsTypedCanBeTypedAgain(t *testing.T) {
	got := typed("static-ip", []string{"machines", "-n", "prod"})
	if want := "kubectl static-ip machines -n prod"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	got = typed("", []string{"annotate", "namespace", "prod", "frozen=for a while"})
	if want := "kubectl annotate namespace prod 'frozen=for a while'"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
