package main

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

// contender is one way to a static address.
type contender struct {
	name   string
	source measure.Source
	// option makes a machine one that goes this way.
	option harness.Option
	// allocation is how the manager allocates from metal3's pools; any if empty.
	allocation string
	// rate is the least of the provider's own claims each second that there are to be of machines.
	rate float64
}

// native is the contender that the others are compared with.
const native = "CAPV's addressesFromPools, in-cluster"

const (
	byClaim   = "claim"
	byAddress = "address"
)

// contenders begin with the native one.
func contenders() []contender {
	inCluster, metal3 := measure.InCluster(), measure.Metal3()
	return []contender{
		{name: native, source: inCluster, option: harness.WithDevices(harness.PooledDevice(harness.DefaultInClusterPool))},
		{name: "capv-static-ip, in-cluster", source: inCluster, option: inCluster.Ask, rate: 0.8},
		{name: "capv-static-ip, metal3, claim", source: metal3, option: metal3.Ask, allocation: byClaim, rate: 0.8},
		{name: "capv-static-ip, metal3, address", source: metal3, option: metal3.Ask, allocation: byAddress, rate: 3},
	}
}

// pool makes a pool with addresses that no other pool has.
func (b *bench) pool(source measure.Source, namespace string) client.Object {
	b.networks++
	return source.Pool(namespace, b.networks)
}

// use has the replicas allocate in the contender's way: those of another way are stopped.
func (b *bench) use(ctx context.Context, c contender) error {
	if c.allocation == "" || c.allocation == b.used {
		return nil
	}
	for _, replica := range b.replicas[b.used] {
		if err := replica.Stop(); err != nil {
			return err
		}
	}
	b.used = c.allocation
	for _, replica := range b.replicas[b.used] {
		if err := replica.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// allocationFlag says how the manager allocates from metal3's pools.
const allocationFlag = "--metal3-allocation="

// prepare has replicas that allocate from metal3's pools by address beside those that the stack
// has started.
func (b *bench) prepare(ctx context.Context) error {
	b.replicas, b.used = map[string][]*harness.Manager{byClaim: b.stack.Managers}, byClaim
	var started []*harness.Manager
	for range b.stack.Managers {
		replica, err := b.stack.Installation.StartManager(ctx, harness.ManagerOptions{Args: []string{allocationFlag + byAddress}})
		if err != nil {
			return fmt.Errorf("starting a manager that allocates by address: %w", err)
		}
		started = append(started, replica)
	}
	b.replicas[byAddress] = started
	var failed error
	for _, replica := range started {
		failed = errors.Join(failed, replica.Stop())
	}
	return failed
}
