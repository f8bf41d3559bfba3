package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

// adapterRetry is how often the adapter looks again in the play, and not every 30 seconds.
const adapterRetry = 5 * time.Second

// adapterPlay comes over from the static IP adapter, as docs/adapter.md says. What is there of
// the adapter is played; everything else is real.
func adapterPlay() play {
	return play{
		what:    "come over from the static IP adapter, while its machines run",
		options: stack.Options{WithoutManager: true, WithoutInCluster: true, WithoutKubeadm: true},
		act:     func(ctx context.Context, s *stage) error { return (&comeOver{stage: s}).play(ctx) },
	}
}

// comeOver is that play under way.
type comeOver struct {
	*stage
	// named are workers whose template names its pool, and bare of one that does not.
	named, bare *clusterv1.MachineDeployment
	// before is what the adapter's machines were.
	before map[string]string
}

func (c *comeOver) play(ctx context.Context) (err error) {
	adapter := &harness.Adapter{Client: c.Plane.Client, Retry: adapterRetry}
	if err := adapter.Install(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	pod, ctx := errgroup.WithContext(ctx)
	pod.Go(func() error { return adapter.Run(ctx) })
	defer func() {
		cancel()
		err = errors.Join(err, pod.Wait())
	}()
	for _, act := range []func(context.Context) error{c.adapterServes, c.plan, c.stopAdapter, c.install, c.adopt, c.lookAround} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// adapterServes has the adapter give addresses to all machines.
func (c *comeOver) adapterServes(ctx context.Context) error {
	c.tell("The static IP adapter runs, and capv-static-ip is not there. Two groups of workers get their addresses of the adapter.")
	if err := c.CreateCluster(ctx, namespace, harness.DefaultCluster); err != nil {
		return err
	}
	named := c.Template(namespace, "named", harness.WithPool(harness.DefaultPool))
	bare := c.Template(namespace, "bare")
	c.named, c.bare = stack.Workers(named, harness.DefaultCluster, "named", 2), stack.Workers(bare, harness.DefaultCluster, "bare", 1)
	if err := c.Create(ctx, harness.Pool(namespace), named, bare, c.named, c.bare); err != nil {
		return err
	}
	for _, workers := range []*clusterv1.MachineDeployment{c.named, c.bare} {
		if _, err := c.AwaitNodes(ctx, workers, nodesTimeout); err != nil {
			return err
		}
	}
	var err error
	if c.before, err = c.machines(ctx); err != nil {
		return err
	}
	return c.kubectl(ctx, "get", "ipclaims", "-o", "custom-columns=CLAIM:.metadata.name,ADDRESS:.status.address.name,OWNER:.metadata.ownerReferences[0].name,IN:.metadata.ownerReferences[0].apiVersion")
}

func (c *comeOver) plan(ctx context.Context) error {
	c.tell("What would become of them? Nothing is written. One template names no pool: that comes first.")
	if err := c.static(ctx, 1, "VSphereMachineTemplate "+namespace+"/bare names no pool", "adopt-adapter"); err != nil {
		return err
	}
	return c.kubectl(ctx, "label", "vspheremachinetemplate", "bare", "-n", namespace, harness.PoolLabel+"="+harness.DefaultPool)
}

func (c *comeOver) stopAdapter(ctx context.Context) error {
	c.tell("Now the adapter is stopped. What is made from now on waits.")
	if err := c.static(ctx, 1, "capv-static-ip is not installed", "adopt-adapter", "--yes"); err != nil {
		return err
	}
	if err := c.Scale(ctx, c.named, 3); err != nil {
		return err
	}
	err := harness.Eventually(ctx, nodesTimeout, "the third machine", func(ctx context.Context) error {
		nodes, err := c.Nodes(ctx, c.named)
		if err == nil && len(nodes) != 3 {
			err = fmt.Errorf("there are %d", len(nodes))
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.kubectl(ctx, "get", "vspheremachines", "-o", "custom-columns=MACHINE:.metadata.name,ADDRESSES:.spec.network.devices[*].ipAddrs")
}

func (c *comeOver) install(ctx context.Context) error {
	c.tell("capv-static-ip is installed.")
	return c.Install(ctx)
}

func (c *comeOver) adopt(ctx context.Context) error {
	c.tell("Once more, to the end.")
	return c.static(ctx, 0, "The adapter is gone.", "adopt-adapter", "--yes")
}

// lookAround shows what there is, and that nothing that the adapter had given is another.
func (c *comeOver) lookAround(ctx context.Context) error {
	c.tell("The machine that waited runs, and the others have not noticed.")
	if _, err := c.AwaitNodes(ctx, c.named, nodesTimeout); err != nil {
		return err
	}
	if err := c.static(ctx, 0, "", "machines"); err != nil {
		return err
	}
	after, err := c.machines(ctx)
	if err != nil {
		return err
	}
	if err := c.areUntouched(ctx, c.before, after); err != nil {
		return err
	}
	c.tell("Spec, claim, address and VM of %d machines are the same as before, and no address was in two VMs.", len(c.before))
	return nil
}

// machines are what each machine is, with the UIDs of its claim and its address.
func (c *comeOver) machines(ctx context.Context) (map[string]string, error) {
	machines, err := c.running(ctx, c.named, c.bare)
	if err != nil {
		return nil, err
	}
	for name := range machines {
		claim, address := &ipamv1.IPClaim{}, &ipamv1.IPAddress{}
		if err := c.Plane.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name + "-0"}, claim); err != nil {
			return nil, err
		}
		if err := c.Plane.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: claim.Status.Address.Name}, address); err != nil {
			return nil, err
		}
		machines[name] += fmt.Sprintf("\nclaim %s\naddress %s", claim.UID, address.UID)
	}
	return machines, nil
}
