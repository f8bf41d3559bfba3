package integration

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
)

// warnDeferred is what the maker of a machine is told that gets its addresses later.
const warnDeferred = "the machine's failure domain decides about its addresses and is not known yet: they are claimed when its Machine exists"

// zoned is an environment with failure domains. These have no namespace, and a machine
// that nobody made may be in any of them: they would be in the way of other tests.
var zoned struct {
	once sync.Once
	env  *environment
	err  error
}

// zonedScene is a scene in the environment with failure domains, which is started by the
// first test that needs it, and ends with all tests.
func zonedScene(t *testing.T) *scene {
	t.Helper()
	zoned.once.Do(func() {
		ctx := context.WithoutCancel(t.Context())
		if zoned.env, zoned.err = startEnvironment(ctx, harness.Options{Progress: io.Discard}, 1); zoned.err != nil {
			return
		}
		if _, zoned.err = zoned.env.StartInCluster(ctx); zoned.err == nil {
			zoned.err = awaitZones(t, zoned.env)
		}
	})
	if zoned.err != nil {
		t.Fatal(zoned.err)
	}
	return newScene(t, zoned.env)
}

// stopZoned stops the environment with failure domains, if it was started.
func stopZoned() error {
	if zoned.env == nil {
		return nil
	}
	return errors.Join(zoned.env.wasHindered(), zoned.env.Stop())
}

// awaitZones makes a failure domain and waits until the manager knows that there are some:
// of a machine that nobody made it then does not know where it will be.
func awaitZones(t *testing.T, env *environment) error {
	t.Helper()
	for _, object := range failureDomain("first", nil, onZone(withPoolOf("0", "any"))) {
		if err := env.Client.Create(t.Context(), object); err != nil {
			return err
		}
	}
	s := &scene{T: t, env: env, ns: metav1.NamespaceDefault}
	c, warned := s.warnedClient()
	return harness.Eventually(t.Context(), harness.Soon, "the manager to know of failure domains", func(ctx context.Context) error {
		if err := c.Create(ctx, harness.Machine(s.ns, "probe"), client.DryRunAll); err != nil {
			return err
		}
		warned.mu.Lock()
		defer warned.mu.Unlock()
		if !slices.Contains(warned.texts, warnDeferred) {
			return errors.New("a machine is not told that its failure domain is unknown")
		}
		return nil
	})
}

// failureDomain are the objects of a failure domain with the networks of devices.
func failureDomain(name string, networks []string, options ...harness.Option) []client.Object {
	domain := &capvv1.VSphereFailureDomain{ObjectMeta: metav1.ObjectMeta{Name: name}}
	domain.Spec.Region = capvv1.FailureDomain{Name: "region", Type: capvv1.DatacenterFailureDomain, TagCategory: "k8s-region"}
	domain.Spec.Zone = capvv1.FailureDomain{Name: name, Type: capvv1.ComputeClusterFailureDomain, TagCategory: "k8s-zone"}
	domain.Spec.Topology = capvv1.Topology{Datacenter: "dc", ComputeCluster: "cluster", Networks: networks}
	zone := &capvv1.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: name}}
	zone.Spec.FailureDomain = name
	// CAPV before v1.16 wants one.
	zone.Spec.PlacementConstraint.ResourcePool = "/dc/host/cluster/Resources"
	for _, option := range options {
		option(zone)
		option(domain)
	}
	return []client.Object{zone, domain}
}

// onZone is an option for the VSphereDeploymentZone alone, onDomain for the
// VSphereFailureDomain.
func onZone(option harness.Option) harness.Option {
	return func(object client.Object) {
		if _, is := object.(*capvv1.VSphereDeploymentZone); is {
			option(object)
		}
	}
}

func onDomain(option harness.Option) harness.Option {
	return func(object client.Object) {
		if _, is := object.(*capvv1.VSphereFailureDomain); is {
			option(object)
		}
	}
}

// configured sets what a failure domain says of devices, in place of their networks.
func configured(configurations ...capvv1.NetworkConfiguration) harness.Option {
	return onDomain(func(object client.Object) {
		object.(*capvv1.VSphereFailureDomain).Spec.Topology.NetworkConfigurations = configurations
	})
}

// zone makes a failure domain whose name no other scene has.
func (s *scene) zone(name string, networks []string, options ...harness.Option) string {
	s.Helper()
	name = s.ns + "-" + name
	s.createGlobal(failureDomain(name, networks, options...)...)
	return name
}

// inDomain puts the machines of a MachineSet into a failure domain.
func inDomain(name string) harness.Option {
	return func(object client.Object) {
		object.(*clusterv1.MachineSet).Spec.Template.Spec.FailureDomain = name
	}
}

// ownerIn is the Machine of a machine, in a failure domain.
func ownerIn(namespace, name, domain string) *clusterv1.Machine {
	owner := &clusterv1.Machine{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	owner.Spec.ClusterName, owner.Spec.FailureDomain = harness.DefaultCluster, domain
	owner.Spec.Bootstrap.DataSecretName = &name
	owner.Spec.InfrastructureRef = clusterv1.ContractVersionedObjectReference{APIGroup: capvv1.GroupName, Kind: "VSphereMachine", Name: name}
	return owner
}

// controlPlaneIn makes a Cluster with these failure domains for its control plane, and
// what the machines of that have in common.
func (s *scene) controlPlaneIn(domains ...string) []harness.Option {
	s.Helper()
	cluster := harness.Cluster(s.ns, harness.DefaultCluster)
	s.create(cluster)
	for _, name := range domains {
		cluster.Status.FailureDomains = append(cluster.Status.FailureDomains, clusterv1.FailureDomain{Name: name, ControlPlane: new(true)})
	}
	if err := s.env.Client.Status().Update(s.Context(), cluster); err != nil {
		s.Fatal(err)
	}
	return []harness.Option{harness.WithOwner(s.controlPlane("cp")), harness.WithLabel(clusterv1.MachineControlPlaneLabel, "")}
}

// zonePool makes a pool of this name with a single address.
func (s *scene) zonePool(f harness.Fixture, name string, last int, options ...harness.Option) {
	s.Helper()
	s.create(f.Pool(s.ns, append([]harness.Option{harness.WithPoolName(name), f.WithIPs(last, last)}, options...)...))
}

// fullName is how an annotation names a pool of a provider.
func fullName(f harness.Fixture, name string) string { return f.Reference(name).Kind + "/" + name }
