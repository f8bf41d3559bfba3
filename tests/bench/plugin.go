package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/tests/bench/measure"
	"capv-static-ip.dev/tests/harness"
)

const (
	// perPool are the machines with addresses of one pool.
	perPool = 100
	// pluginGoal is how long kubectl static-ip pools -A may take for 10,000 machines, and
	// pluginMemoryGoal how much memory, in MiB.
	pluginGoal, pluginMemoryGoal = 5 * time.Second, 300.0
)

// looks are what it takes to look at many machines with the plugin.
type looks struct {
	machines int
	took     measure.Durations
	// resident is the most memory that a look took, in MiB, 0 if that is not known.
	resident float64
}

// look measures kubectl static-ip pools -A with this many machines, on an API server with
// nothing else to do.
func look(ctx context.Context, machines, count int) (_ looks, err error) {
	plane, err := harness.Start(ctx, harness.Options{Progress: io.Discard})
	if err != nil {
		return looks{}, fmt.Errorf("starting a control plane: %w", err)
	}
	defer func() { err = errors.Join(err, plane.Stop()) }()
	if err := furnish(ctx, plane, machines); err != nil {
		return looks{}, fmt.Errorf("making machines: %w", err)
	}
	program := filepath.Join(plane.Dir, "kubectl-static_ip")
	if output, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, "./cmd/kubectl-static_ip").CombinedOutput(); err != nil {
		return looks{}, fmt.Errorf("building the plugin: %w\n%s", err, output)
	}
	found := looks{machines: machines}
	for range count {
		cmd := exec.CommandContext(ctx, program, "pools", "-A", "--kubeconfig", plane.Kubeconfig)
		cmd.Env = append(os.Environ(), "HOME="+plane.Dir)
		start := time.Now()
		output, err := cmd.CombinedOutput()
		if err != nil {
			return looks{}, fmt.Errorf("looking at %d machines: %w\n%s", machines, err, output)
		}
		if rows := strings.Count(string(output), "\n"); rows != 1+machines/perPool {
			return looks{}, fmt.Errorf("looking at %d machines: there are %d rows\n%s", machines, rows, output)
		}
		found.took = append(found.took, time.Since(start))
		found.resident = max(found.resident, mebibytesOf(cmd.ProcessState))
	}
	return found, nil
}

// furnish makes machines, each with its VM, claim and address, and their pools, as they
// are when all have been served. Nobody is there who would change anything.
func furnish(ctx context.Context, plane *harness.ControlPlane, machines int) error {
	namespace, err := plane.CreateNamespace(ctx, "look")
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for n := range machines {
		if n%perPool == 0 {
			group.Go(func() error { return furnishPool(ctx, plane.Client, namespace, n/perPool) })
		}
		group.Go(func() error { return furnishMachine(ctx, plane.Client, namespace, n) })
	}
	return group.Wait()
}

func furnishPool(ctx context.Context, c client.Client, namespace string, n int) error {
	template := harness.Template(namespace, poolName(n), harness.WithPool(poolName(n)))
	pool := harness.Pool(namespace, harness.PoolNamed(poolName(n)), harness.PoolRange(fmt.Sprintf("10.%d.0.1", n), fmt.Sprintf("10.%d.0.200", n)))
	return createAll(ctx, c, template, pool, harness.MachineDeployment(namespace, poolName(n), template.Name, "1"))
}

func furnishMachine(ctx context.Context, c client.Client, namespace string, n int) error {
	pool, ip := poolName(n/perPool), netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", n/perPool, 1+n%perPool))
	name := fmt.Sprintf("machine-%d", n)
	claim := harness.Claim(namespace, ipam.ClaimName(name, ipam.Slot{}), pool)
	binding := ipam.Binding{
		Device: ipam.Device{NetworkName: harness.StaticDevice().NetworkName}, Pool: metal3.PoolNamed(pool), Claim: claim.Name,
		Address: netip.PrefixFrom(ip, 24), Gateway: netip.MustParseAddr("10.0.0.1"), Nameservers: []string{"10.0.0.2", "10.0.0.3"},
	}
	text, err := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{binding}}.Encode()
	if err != nil {
		return err
	}
	machine := harness.Machine(namespace, name, harness.FromTemplate(pool), harness.WithDevices(harness.FixedDevice(binding.Address.String())),
		harness.WithAnnotation(ipam.BindingsAnnotation, text), harness.WithFinalizer(ipam.ReleaseFinalizer), harness.WithFinalizer(harness.MachineFinalizer),
		harness.WithLabel(clusterv1.MachineDeploymentNameLabel, pool), harness.WithLabel(clusterv1.MachineSetNameLabel, pool+"-x7k2p"))
	if err := createAll(ctx, c, machine); err != nil {
		return err
	}
	harness.WithOwner(machine)(claim)
	ipam.Mark(claim, ipam.Machine{NamespacedName: client.ObjectKeyFromObject(machine), Cluster: harness.DefaultCluster})
	address := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: pool + "-" + strings.ReplaceAll(ip.String(), ".", "-"), Finalizers: []string{ipam.InUseFinalizer},
			Annotations: map[string]string{ipam.MachineNameAnnotation: name, ipam.MachineUIDAnnotation: string(machine.UID)},
		},
		Spec: ipamv1.IPAddressSpec{
			Pool: corev1.ObjectReference{Namespace: namespace, Name: pool}, Claim: corev1.ObjectReference{Namespace: namespace, Name: claim.Name},
			Address: ipamv1.IPAddressStr(ip.String()), Prefix: 24,
		},
	}
	return createAll(ctx, c, harness.VSphereVM(machine), claim, address)
}

func createAll(ctx context.Context, c client.Client, objects ...object) error {
	for _, o := range objects {
		if err := c.Create(ctx, o); err != nil {
			return fmt.Errorf("creating %s: %w", o.GetName(), err)
		}
	}
	return nil
}
