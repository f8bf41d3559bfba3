// Command capv-static-ip gives VSphereMachines static addresses at admission,
// and takes the addresses back when their VMs are gone.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	err := run(ctrl.SetupSignalHandler(), os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "capv-static-ip:", err)
		os.Exit(1)
	}
}

// run serves until the context ends, and then drains what is in flight.
func run(ctx context.Context, args []string) error {
	opts, err := parseOptions(args)
	if err != nil {
		return err
	}
	if opts.showVersion {
		fmt.Println(version)
		return nil
	}
	if err := opts.setUpLogging(ctx); err != nil {
		return err
	}
	for _, warning := range opts.warnings() {
		klog.FromContext(ctx).Info("Warning: " + warning)
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("loading the API server's address: %w", err)
	}
	mgr, stopCache, err := newManager(ctx, config, opts)
	if err != nil {
		return err
	}
	defer stopCache()
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}
