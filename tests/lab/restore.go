package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

const (
	// restoredNamespace is the namespace that is lost in the play, and brought back.
	restoredNamespace = "prod"
	// perGroup is how many machines each group has.
	perGroup = 2
)

// restorePlay loses a management cluster while its VMs run, and brings it back from a backup,
// as docs/restore.md says.
func restorePlay() play {
	return play{
		what:    "lose a management cluster while its machines run, and bring it back from a backup",
		options: stack.Options{WithoutKubeadm: true},
		act:     func(ctx context.Context, s *stage) error { return (&drill{stage: s}).play(ctx) },
	}
}

// drill is that play under way.
type drill struct {
	*stage
	// groups are workers with addresses of each provider.
	groups []*clusterv1.MachineDeployment
	before map[string]string
	backup stack.Backup
}

func (d *drill) play(ctx context.Context) error {
	for _, act := range []func(context.Context) error{
		d.machinesRun, d.backUp, d.lose, d.freeze, d.restore, d.refuse, d.thaw, d.lookAround,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// in are arguments for the namespace of the play.
func in(args ...string) []string { return append(args, "-n", restoredNamespace) }

func (d *drill) machinesRun(ctx context.Context) error {
	d.tell("In namespace %s, two machines have addresses of a pool of metal3, and two of a pool of the in-cluster provider.", restoredNamespace)
	if err := d.EnsureNamespace(ctx, restoredNamespace); err != nil {
		return err
	}
	if err := d.CreateCluster(ctx, restoredNamespace, harness.DefaultCluster); err != nil {
		return err
	}
	for _, f := range harness.Fixtures {
		template := d.Template(restoredNamespace, f.Name, f.Ask(f.PoolName))
		workers := stack.Workers(template, harness.DefaultCluster, f.Name, perGroup)
		if err := d.Create(ctx, f.Pool(restoredNamespace), template, workers); err != nil {
			return err
		}
		d.groups = append(d.groups, workers)
	}
	if err := d.awaitNodes(ctx); err != nil {
		return err
	}
	var err error
	if d.before, err = d.running(ctx, d.groups...); err != nil {
		return err
	}
	return d.static(ctx, 0, "", in("machines")...)
}

// awaitNodes waits until all groups have the machines that they are to have.
func (d *drill) awaitNodes(ctx context.Context) error {
	for _, workers := range d.groups {
		if _, err := d.AwaitNodes(ctx, workers, nodesTimeout); err != nil {
			return err
		}
	}
	return nil
}

func (d *drill) backUp(ctx context.Context) error {
	d.tell("A backup is made, of what Velero would have in it. Claims and addresses are left out, as docs/restore.md says.")
	var err error
	if d.backup, err = d.Backup(ctx, restoredNamespace, stack.ClaimsAndAddresses()...); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%s\n", d.backup)
	return nil
}

func (d *drill) lose(ctx context.Context) error {
	d.tell("The management cluster is lost: API server, etcd and all controllers are killed. The VMs run on.")
	if err := d.replace(ctx); err != nil {
		return err
	}
	vms, err := d.VCenter.VMs(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nIn the vCenter there are %d VMs.\n", len(vms))
	if len(vms) != len(d.before) {
		return fmt.Errorf("there are %d VMs, want %d", len(vms), len(d.before))
	}
	return nil
}

func (d *drill) freeze(ctx context.Context) error {
	d.tell("The namespace is made, and frozen before anything is in it.")
	if err := d.kubectl(ctx, "create", "namespace", restoredNamespace); err != nil {
		return err
	}
	return d.kubectl(ctx, "annotate", "namespace", restoredNamespace, ipam.FrozenAnnotation+"=restoring the backup of Monday")
}

// audit are the arguments of an audit of what docs/restore.md has people look at. That no Pod is
// behind the Service of the webhook in the lab is left out.
func (d *drill) audit() []string {
	return in("audit", "--checks=SIP-001,SIP-004,SIP-005,SIP-006,SIP-019")
}

func (d *drill) restore(ctx context.Context) error {
	d.tell("The backup is restored: by the names of the resources, without owners, finalizers and status, the Clusters last.")
	if err := d.Restore(ctx, d.backup); err != nil {
		return err
	}
	if err := d.isWhole(ctx); err != nil {
		return err
	}
	err := harness.Eventually(ctx, nodesTimeout, "all machines to know their Nodes", func(ctx context.Context) error {
		return d.Joined(ctx, restoredNamespace)
	})
	if err != nil {
		return err
	}
	d.tell("Each machine has its claim and its address again, although neither was in the backup.")
	if err := d.kubectl(ctx, in("get", "ipclaims,ipaddressclaims",
		"-o", "custom-columns=CLAIM:.metadata.name,OWNER:.metadata.ownerReferences[0].name")...); err != nil {
		return err
	}
	d.tell("Is anything not as it should be?")
	return d.static(ctx, 0, "is frozen", d.audit()...)
}

// isWhole waits until each machine that there is holds its address by a claim.
func (d *drill) isWhole(ctx context.Context) error {
	return harness.Eventually(ctx, nodesTimeout, "each machine to have its claim", func(ctx context.Context) error {
		options := harness.InvariantOptions{Namespaces: []string{restoredNamespace}}
		if err := errors.Join(harness.CheckInvariants(ctx, d.Plane.Client, options)...); err != nil {
			return err
		}
		claims := 0
		for _, f := range harness.Fixtures {
			of, err := harness.List(ctx, d.Plane.Client, ipam.EmptyClaim(f.Provider), client.InNamespace(restoredNamespace))
			if err != nil {
				return err
			}
			for _, claim := range of {
				if f.Provider.ReadClaim(claim).Address == "" {
					return fmt.Errorf("claim %s is not bound", claim.GetName())
				}
			}
			claims += len(of)
		}
		if want := d.wanted(); claims != want {
			return fmt.Errorf("there are %d claims, want %d", claims, want)
		}
		return nil
	})
}

// wanted is how many machines there are to be.
func (d *drill) wanted() int {
	count := 0
	for _, workers := range d.groups {
		count += int(*workers.Spec.Replicas)
	}
	return count
}

func (d *drill) refuse(ctx context.Context) error {
	d.tell("Who wants a machine now is refused, and told why.")
	workers := d.groups[0]
	kind := "machinedeployment/" + workers.Name
	if err := d.kubectl(ctx, in("scale", kind, fmt.Sprintf("--replicas=%d", perGroup+1))...); err != nil {
		return err
	}
	err := harness.Eventually(ctx, nodesTimeout, "the machine to be refused", func(ctx context.Context) error {
		output, err := d.plugin.command(ctx, in("explain", kind)...).CombinedOutput()
		if !strings.Contains(string(output), "is frozen") {
			return fmt.Errorf("it says %s, %w", output, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.static(ctx, 1, "is frozen (restoring the backup of Monday)", in("explain", kind)...)
}

func (d *drill) thaw(ctx context.Context) error {
	d.tell("All is well, so the freeze is ended. The machine that was refused comes.")
	if err := d.kubectl(ctx, "annotate", "namespace", restoredNamespace, ipam.FrozenAnnotation+"-"); err != nil {
		return err
	}
	*d.groups[0].Spec.Replicas = perGroup + 1
	if err := d.awaitNodes(ctx); err != nil {
		return err
	}
	return d.isWhole(ctx)
}

// lookAround shows what there is, and that nothing that was lost is another.
func (d *drill) lookAround(ctx context.Context) error {
	if err := d.static(ctx, 0, "", in("machines")...); err != nil {
		return err
	}
	if err := d.static(ctx, 0, "", d.audit()...); err != nil {
		return err
	}
	after, err := d.running(ctx, d.groups...)
	if err != nil {
		return err
	}
	if err := d.areUntouched(ctx, d.before, after); err != nil {
		return err
	}
	d.tell("The %d machines and their VMs are what they were before the loss, and no address was in two VMs.", len(d.before))
	return nil
}
