// Command lab starts a whole management cluster on this machine, without any
// container: Cluster API, CAPV with a simulated vCenter, metal3's and the
// in-cluster IPAM provider, cert-manager, and two replicas of capv-static-ip.
// It makes two groups of workers in it, one for each provider's pool, and says
// what can be tried.
//
//	make lab
//	make lab ONCE=1
//	make lab PLAY=adapter
//	make lab PLAY=migrate
//	make lab PLAY=restore
//
// It runs until it is interrupted; with ONCE set, only until it has looked
// whether every virtual machine was given the addresses of its machine, and whether
// the plugin's commands that it would suggest work. With PLAY set, it plays a journey
// instead, and shows what a user would type and see: see plays.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/stack"
)

func main() {
	ctx, stop := harness.Lifetime()
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	began := time.Now()
	p, playing, err := playNamed(os.Getenv("PLAY"))
	if err != nil {
		return err
	}
	options := p.options
	options.Progress = os.Stdout
	fmt.Println("Starting a management cluster; the first time, its programs are built, for about 20 minutes.")
	s, err := stack.Start(ctx, options)
	if err != nil {
		return explain(ctx, err)
	}
	defer func() { err = end(ctx, s, err) }()
	plugin, err := buildPlugin(ctx, s)
	if err != nil {
		return err
	}
	if playing {
		return perform(ctx, p, &stage{Stack: s, options: options, plugin: plugin, out: os.Stdout})
	}
	sample, err := createSample(ctx, s)
	if err != nil {
		return err
	}
	fmt.Printf("\nEverything runs, %s after the start.\n\n", time.Since(began).Round(time.Second))
	if err := sample.show(os.Stdout); err != nil {
		return err
	}
	if isOnce() {
		return plugin.try(ctx, sample.trials())
	}
	suggest(os.Stdout, s, func(to io.Writer) { plugin.suggest(to, sample.trials()) })
	<-ctx.Done()
	fmt.Println("Stopping.")
	return nil
}

// perform plays a play, and leaves its stage as it is.
func perform(ctx context.Context, p play, s *stage) (err error) {
	began := s.Stack
	defer func() {
		// Who began it ends the first one.
		if s.Stack != began {
			err = end(ctx, s.Stack, err)
		}
	}()
	fmt.Fprintf(s.out, "\n%s\n", strings.ToUpper(p.what))
	if err := p.act(ctx, s); err != nil || isOnce() {
		return err
	}
	fmt.Fprintf(s.out, "\nIn another terminal:\n\n  export KUBECONFIG=%s\n  export PATH=%s:$PATH\n\nCtrl-C ends all of it.\n", s.Plane.Kubeconfig, s.plugin.dir)
	<-ctx.Done()
	return nil
}

// isOnce tells whether the lab ends by itself.
func isOnce() bool {
	once := os.Getenv("ONCE")
	return once != "" && once != "0"
}

// end stops everything. What failed can be read about in the logs, so they stay.
func end(ctx context.Context, s *stack.Stack, err error) error {
	return errors.Join(explain(ctx, s.Plane.KeepLogs(ctx, err)), s.Stop())
}

// explain says of what an interrupt broke on its way only that.
func explain(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}
