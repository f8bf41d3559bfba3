// Command bench measures what an injected address costs, and prints it as
// tables. Everything is measured in one run on one control plane, and what is
// compared is measured in turns, so that noise hits both sides alike.
//
//	make bench
//	go run ./tests/bench -quick
//
// A goal that is missed is reported and is no failure: the machine may be busy.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

func main() {
	measure.Main("bench", "take a minute: few samples, pools of up to 100 bindings", thorough().run, short().run)
}

// plan says how much is measured.
type plan struct {
	// rounds is how often the measurements with one client take turns.
	rounds int
	// creates and claims are the samples in each turn: of what takes a few
	// milliseconds, and of what waits for the provider.
	creates, claims int
	// crowdRounds is how often those with many clients do, and perClient what
	// each of the clients makes in a turn.
	crowdRounds, perClient int
	// sizes are the numbers of bindings in the pool at which growth is measured,
	// and perSize the samples at each.
	sizes   []int
	perSize int
	// ownSizes and ownSamples are the same for our own share of a create, where the
	// provider answers at once.
	ownSizes   []int
	ownSamples int
	// scrapes are the samples of a scrape.
	scrapes int
	// machines are what the plugin looks at, and looks how often.
	machines, looks int
}

// crowd is the number of clients that create at once.
const crowd = 32

func thorough() plan {
	return plan{rounds: 10, creates: 50, claims: 12, crowdRounds: 3, perClient: 4, sizes: []int{10, 100, 1000, 5000}, perSize: 30, ownSizes: []int{10, 1000, 10000}, ownSamples: 100, scrapes: 100, machines: 10000, looks: 5}
}

func short() plan {
	return plan{rounds: 3, creates: 20, claims: 7, crowdRounds: 1, perClient: 2, sizes: []int{10, 100}, perSize: 20, ownSizes: []int{10, 100}, ownSamples: 20, scrapes: 20, machines: 300, looks: 3}
}

func (p plan) run(ctx context.Context, out, progress io.Writer) (err error) {
	start, on := time.Now(), measure.ThisMachine()
	log := measure.NewProgress(progress)
	log.Begin("starting a control plane, metal3 and capv-static-ip")
	plane, err := harness.Start(ctx, harness.Options{Progress: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(plane.KeepLogs(ctx, err), plane.Stop()) }()
	b, err := prepare(ctx, plane)
	if err != nil {
		return err
	}
	b.log = log
	log.Done()

	results := &results{machine: on}
	if err := b.measure(ctx, p, results); err != nil {
		return err
	}
	log.Begin(fmt.Sprintf("looking at %d machines with the plugin", p.machines))
	if results.looks, err = look(ctx, p.machines, p.looks); err != nil {
		return fmt.Errorf("measuring the plugin: %w", err)
	}
	log.Done()
	results.print(out)
	fmt.Fprintf(out, "\nMeasured in %s.\n", time.Since(start).Round(time.Second))
	return nil
}

func prepare(ctx context.Context, plane *harness.ControlPlane) (*bench, error) {
	if _, err := plane.StartMetal3(ctx, harness.Metal3Options{}); err != nil {
		return nil, fmt.Errorf("starting metal3: %w", err)
	}
	installation, err := plane.Install(ctx)
	if err != nil {
		return nil, fmt.Errorf("installing: %w", err)
	}
	if _, err := installation.StartManager(ctx, harness.ManagerOptions{WithoutLeaderElection: true}); err != nil {
		return nil, fmt.Errorf("starting the manager: %w", err)
	}
	namespace, err := plane.CreateNamespace(ctx, "bench")
	if err != nil {
		return nil, err
	}
	template := harness.Template(namespace, "static", harness.WithPool(harness.DefaultPool))
	pool := harness.Pool(namespace, harness.PoolRange(firstAddress, lastAddress))
	full := harness.Pool(namespace, harness.PoolNamed(fullPool), harness.PoolRange("10.17.0.1", "10.17.0.1"))
	holder := harness.Claim(namespace, "somebody", fullPool)
	for _, object := range []object{harness.Cluster(namespace, harness.DefaultCluster), template, pool, full, holder} {
		if err := plane.Client.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("creating %s: %w", object.GetName(), err)
		}
	}
	if _, err := harness.WaitBound(ctx, plane.Client, holder, harness.Soon); err != nil {
		return nil, fmt.Errorf("filling a pool: %w", err)
	}
	watched, err := measure.NewWatch(ctx, plane.Client, &ipamv1.IPClaimList{}, namespace)
	if err != nil {
		return nil, err
	}
	return &bench{client: plane.Client, installation: installation, namespace: namespace, template: template, claims: watched}, nil
}
