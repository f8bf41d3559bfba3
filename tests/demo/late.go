package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
)

// serveLate makes a machine whose name is not known at admission. What Cluster API and
// CAPV then do with each new machine is played: a Machine owns it, and CAPV's finalizer
// is on it.
func serveLate(ctx context.Context, s *stage) error {
	machine := harness.Clone(s.template, "", harness.WithAnnotation(ipam.PoolsAnnotationPrefix+"0", "dkp-spare"))
	machine.GenerateName = "dkp-bastion-"
	if err := s.plane.Client.Create(ctx, machine); err != nil {
		return fmt.Errorf("creating a machine by generateName: %w", err)
	}
	if err := expect("addresses of the machine", harness.Addresses(machine), []string(nil)); err != nil {
		return err
	}
	s.out.say("%s was made by metadata.generateName, and stored without an address.", machine.Name)
	owner := &clusterv1.Machine{}
	owner.Namespace, owner.Name = namespace, machine.Name
	owner.Spec.ClusterName = harness.DefaultCluster
	owner.Spec.Bootstrap.DataSecretName = &owner.Name
	owner.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: capvv1.GroupName, Kind: "VSphereMachine", Name: machine.Name}
	if err := s.plane.Client.Create(ctx, owner); err != nil {
		return fmt.Errorf("creating Machine %s: %w", owner.Name, err)
	}
	start := time.Now()
	err := s.edit(ctx, machine, func(object client.Object) {
		harness.WithOwner(owner)(object)
		harness.WithFinalizer(harness.MachineFinalizer)(object)
	})
	if err != nil {
		return err
	}
	s.out.say("Cluster API makes its Machine the owner, and CAPV puts its finalizer on it.")
	err = harness.Eventually(ctx, harness.Soon, "the machine to have its address", func(ctx context.Context) error {
		if err := s.plane.Client.Get(ctx, client.ObjectKeyFromObject(machine), machine); err != nil {
			return err
		}
		return errors.Join(
			expect("addresses of the machine", harness.Addresses(machine), []string{"10.16.56.101/24"}),
			expect("gateway of the machine", machine.Spec.Network.Devices[0].Gateway4, "10.16.56.1"))
	})
	if err != nil {
		return err
	}
	s.out.check("%s later it has %v: CAPV has waited with the VM", round(time.Since(start)), harness.Addresses(machine))
	return harness.AwaitInvariants(ctx, s.plane.Client, harness.Soon, harness.InvariantOptions{})
}
