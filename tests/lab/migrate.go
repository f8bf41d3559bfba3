package main

import (
	"context"
	"fmt"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// newPool is the pool to which addresses are moved in the play.
const newPool = "edge"

// migratePlay moves the addresses of machines that run to a pool of the other provider, as
// docs/migrate.md says.
func migratePlay() play {
	return play{
		what:    "move the addresses of machines that run from metal3 to the in-cluster provider",
		options: stack.Options{WithoutKubeadm: true},
		act:     func(ctx context.Context, s *stage) error { return (&relocation{stage: s}).play(ctx) },
	}
}

// relocation is that play under way.
type relocation struct {
	*stage
	workers *clusterv1.MachineDeployment
	before  map[string]string
}

func (r *relocation) play(ctx context.Context) error {
	for _, act := range []func(context.Context) error{r.machinesRun, r.plan, r.move, r.lookAround} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *relocation) machinesRun(ctx context.Context) error {
	r.tell("Three machines have addresses of metal3's pool %s. Pool %s of the in-cluster provider has the same range.", harness.DefaultPool, newPool)
	if err := r.CreateCluster(ctx, namespace, harness.DefaultCluster); err != nil {
		return err
	}
	template := r.Template(namespace, "workers", harness.WithAnnotation("pools.capv-static-ip.dev/0", "IPPool/"+harness.DefaultPool))
	r.workers = stack.Workers(template, harness.DefaultCluster, "workers", replicas)
	edge := harness.InClusterPool(namespace, harness.InClusterNamed(newPool),
		harness.InClusterAddresses("10.16.56.88-10.16.56.93"), harness.InClusterField("10.16.56.1", "gateway"))
	if err := r.Create(ctx, harness.Pool(namespace), edge, template, r.workers); err != nil {
		return err
	}
	if _, err := r.AwaitNodes(ctx, r.workers, nodesTimeout); err != nil {
		return err
	}
	var err error
	if r.before, err = r.running(ctx, r.workers); err != nil {
		return err
	}
	return r.static(ctx, 0, "IPPool/"+harness.DefaultPool, "machines")
}

// migrate are the arguments of the command.
func (r *relocation) migrate(more ...string) []string {
	return append([]string{"migrate", "--from=IPPool/" + harness.DefaultPool, "--to=" + harness.InClusterPoolKind + "/" + newPool}, more...)
}

func (r *relocation) plan(ctx context.Context) error {
	r.tell("What would be done? Nothing is written.")
	return r.static(ctx, 0, "Nothing was changed", r.migrate("--templates")...)
}

func (r *relocation) move(ctx context.Context) error {
	r.tell("It is done, and killed in the middle.")
	if err := r.killed(ctx, "1 of 3", r.migrate("--templates", "--yes")...); err != nil {
		return err
	}
	if err := r.static(ctx, 0, "", "machines"); err != nil {
		return err
	}
	r.tell("Once more, to the end.")
	return r.static(ctx, 0, "The addresses are moved.", r.migrate("--templates", "--yes")...)
}

func (r *relocation) lookAround(ctx context.Context) error {
	r.tell("A fourth machine gets its address of the new pool.")
	if err := r.Scale(ctx, r.workers, replicas+1); err != nil {
		return err
	}
	nodes, err := r.AwaitNodes(ctx, r.workers, nodesTimeout)
	if err != nil {
		return err
	}
	if len(nodes) != replicas+1 {
		return fmt.Errorf("there are %d machines, want %d", len(nodes), replicas+1)
	}
	for _, command := range []string{"machines", "pools"} {
		if err := r.static(ctx, 0, harness.InClusterPoolKind+"/"+newPool, command); err != nil {
			return err
		}
	}
	after, err := r.running(ctx, r.workers)
	if err != nil {
		return err
	}
	if err := r.areUntouched(ctx, r.before, after); err != nil {
		return err
	}
	r.tell("The %d machines and their VMs are what they were, and no address was in two VMs.", len(r.before))
	return nil
}
