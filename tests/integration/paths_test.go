package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"

	"capv-static-ip.dev/tests/docs"
	"capv-static-ip.dev/tests/harness"
)

// That all ways to install bring equal objects is shown in tests/install. What these
// objects do needs a server, and each way has it for itself.
func TestKubectlInstallsWhatManagersNeed(t *testing.T) {
	t.Parallel()
	c := newBareTarget(t)
	c.run(c.kubectl, "apply", "--server-side", "-k", "deploy/default")
	everythingWorks(t, installed(c))
}

func TestClusterctlInstallsWhatManagersNeed(t *testing.T) {
	t.Parallel()
	u := newAddonUser(newBareTarget(t))
	u.clusterctl("init", "--addon=capv-static-ip:"+u.first)
	env := installed(u.target)
	everythingWorks(t, env)
	t.Run("machines that are made during an upgrade get their addresses", func(t *testing.T) {
		machinesOfAnUpgrade(newScene(t, env), u)
	})
}

// everythingWorks has managers work where nothing but a way to install has brought
// anything of ours.
func everythingWorks(t *testing.T, env *environment) {
	t.Helper()
	t.Run("without a replica, only machines that need an address are refused", func(t *testing.T) {
		s := bareScene(t, env)
		s.createMachinesThatNeedNoAddress()
		s.refused(s.pooled("cp-0"), "failed calling webhook")
	})
	env.startReplica(t)
	t.Run("machines that need no address never reach the webhook", func(t *testing.T) {
		machinesThatNeverReachTheWebhook(bareScene(t, env), env.managers[0])
	})
	t.Run("the documented check sees a replica", func(t *testing.T) { checkOfTheDocumentation(t, env) })
	env.startReplica(t)
	t.Run("managers are forbidden nothing in a full life", func(t *testing.T) {
		inClusterLife(newScene(t, env))
		nothingIsForbidden(newScene(t, env))
	})
}

func checkOfTheDocumentation(t *testing.T, env *environment) {
	page, err := docs.Read(env.Root(), "docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	text, found := page.Section("See that it works")
	blocks := docs.Page{Text: text}.Blocks("sh")
	if !found || len(blocks) != 1 {
		t.Fatalf("%s has %d commands", page.Path, len(blocks))
	}
	output := shell(t, env, "", "{", blocks[0], "} 2>&1")
	const want = `no IPPool and no InClusterIPPool "install-check" can be used in namespace "default", `
	if !strings.Contains(output, want) {
		t.Errorf("got %q, want %q", output, want)
	}
}

// newBareTarget is a control plane with the kinds of all that we ship, on which no
// manager of another provider has to run.
func newBareTarget(t *testing.T) target {
	t.Helper()
	// The test's own context ends before its cleanup, which still looks around.
	ctx := context.WithoutCancel(t.Context())
	plane, err := harness.Start(ctx, harness.Options{
		AdmissionPlugins: []string{"OwnerReferencesPermissionEnforcement"}, Progress: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			plane.DumpLogs(os.Stderr, 100)
		}
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := isolateNetworks(plane); err != nil {
		t.Fatal(err)
	}
	if err := plane.InstallStackCRDs(ctx); err != nil {
		t.Fatal(err)
	}
	kubectl, err := plane.Kubectl(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return target{T: t, plane: plane, kubectl: kubectl}
}

// installed is a control plane on which we were installed, with both providers.
func installed(c target) *environment {
	c.Helper()
	ctx := context.WithoutCancel(c.Context())
	env := &environment{ControlPlane: c.plane}
	var err error
	if env.Installation, err = c.plane.Installed(ctx); err != nil {
		c.Fatal(err)
	}
	if env.metal3, err = c.plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
		c.Fatal(err)
	}
	if _, err := c.plane.StartInCluster(ctx); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		if err := env.wasHindered(); err != nil {
			c.Error(err)
		}
	})
	return env
}

func (e *environment) startReplica(t *testing.T) {
	t.Helper()
	manager, err := e.StartManager(context.WithoutCancel(t.Context()), harness.ManagerOptions{OrphanGracePeriod: gracePeriod})
	if err != nil {
		t.Fatal(err)
	}
	e.managers = append(e.managers, manager)
}

// machinesOfAnUpgrade has clusterctl upgrade while machines are made. Between the
// deletion of the webhook configuration and the new one they are stored as they are.
func machinesOfAnUpgrade(s *scene, u addonUser) {
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.64.1", "10.16.95.254")))
	following, stop := context.WithCancel(s.Context())
	defer stop()
	followed := make(chan error, 1)
	go func() { followed <- s.env.Follow(following, s.env.managers) }()
	upgraded := make(chan error, 1)
	go func() {
		_, err := u.try(u.program, "upgrade", "apply", "--addon="+harness.SystemNamespace+"/capv-static-ip:"+u.second, "--config="+u.config)
		upgraded <- err
	}()

	var stored, late []*capvv1.VSphereMachine
	var err error
	for ended := false; !ended; {
		select {
		case err = <-upgraded:
			ended = true
		default:
			machine := s.pooled(fmt.Sprintf("m-%d", len(stored)))
			if s.env.Client.Create(s.Context(), machine) != nil {
				continue
			}
			stored = append(stored, machine)
			if len(harness.Addresses(machine)) == 0 {
				late = append(late, machine)
			}
		}
	}
	if err != nil {
		s.Fatal(err)
	}
	s.eventually("the new version to serve", func(context.Context) error {
		return s.env.Client.Create(s.Context(), s.pooled("after"), client.DryRunAll)
	})
	s.Logf("%d machines were stored, %d of them without an address", len(stored), len(late))
	if len(late) == 0 {
		s.Error("no machine was stored without an address: if clusterctl has no such hole any more, say so in docs/install.md")
	}
	for _, machine := range late {
		s.becomesKnown(machine)
	}
	for _, machine := range stored {
		s.served(machine.Name, 1)
	}
	stop()
	if err := <-followed; err != nil {
		s.Error(err)
	}
}
