package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// settleTimeout is how long all may take to be in order after everything works again.
	// If it is not, the history says what is not: here nothing is judged.
	settleTimeout = 4 * time.Minute
	// probeTimeout is how long a machine may take to be stored when nothing else happens.
	probeTimeout = 40 * time.Second
	// lookAgain is how often it is looked whether all has settled.
	lookAgain = time.Second
)

// all are the arenas, and those whose Cluster or whose addresses are moved, if they are here.
func (t *trial) all() []*arena {
	all := slices.Clone(t.arenas)
	if t.mover != nil && !t.mover.lost {
		all = append(all, t.mover.arena)
	}
	if t.migrant != nil {
		all = append(all, t.migrant.arena)
	}
	return all
}

// settle waits until all is in order, sees that each pool serves, and marks that.
func (t *trial) settle(ctx context.Context) error {
	if err := errors.Join(t.resumeClusters(ctx), t.thaw(ctx)); err != nil {
		return err
	}
	began := time.Now()
	err := t.await(ctx, settleTimeout, t.lettingGo(t.unsettled))
	fmt.Printf("settled after %s: %v\n", time.Since(began).Round(time.Second), orFine(err))
	var probes sync.WaitGroup
	for _, a := range t.all() {
		probes.Go(func() {
			for _, s := range a.offered() {
				t.probe(ctx, a, s)
			}
		})
	}
	probes.Wait()
	return t.mark(ctx, history.Settled)
}

// resumeClusters resumes the Clusters that stayed paused, since whoever had paused them could
// not be heard by the API server. They would be found fault with for what they lack.
func (t *trial) resumeClusters(ctx context.Context) error {
	for _, a := range t.arenas {
		err := harness.Eventually(ctx, opTimeout, "the Clusters to be resumed", func(ctx context.Context) error {
			clusters := &clusterv1.ClusterList{}
			if err := t.stack.Plane.Client.List(ctx, clusters, client.InNamespace(a.ns)); err != nil {
				return err
			}
			for i := range clusters.Items {
				cluster := &clusters.Items[i]
				if !ptr.Deref(cluster.Spec.Paused, false) {
					continue
				}
				op := history.Op{Worker: -1, Kind: "resume Cluster", Namespace: a.ns, Name: cluster.Name}
				resume := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"paused":null}}`))
				err := t.do(ctx, op, func(ctx context.Context) error { return t.stack.Plane.Client.Patch(ctx, cluster, resume) })
				if client.IgnoreNotFound(err) != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// drain deletes everything, waits until it is gone, and marks that.
func (t *trial) drain(ctx context.Context) error {
	began := time.Now()
	for _, w := range t.workers {
		if err := w.deletePlanes(ctx); err != nil {
			return err
		}
	}
	for _, a := range t.all() {
		for _, kind := range []client.Object{&clusterv1.MachineDeployment{}, &clusterv1.Machine{}, &capvv1.VSphereMachine{}} {
			err := harness.Eventually(ctx, opTimeout, "everything to be deleted", func(ctx context.Context) error {
				return t.stack.Plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(a.ns))
			})
			if err != nil {
				return err
			}
		}
	}
	err := t.await(ctx, settleTimeout, t.lettingGo(t.undrained))
	fmt.Printf("drained after %s: %v\n", time.Since(began).Round(time.Second), orFine(err))
	return t.mark(ctx, history.Drained)
}

func orFine(err error) any {
	if err == nil {
		return "all is in order"
	}
	return err
}

// await looks again and again until nothing is left to wait for. Its error is what was found
// left when there was still time to look.
func (t *trial) await(ctx context.Context, timeout time.Duration, left func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var found error
	for {
		err := left(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return cmp.Or(found, err)
		}
		found = err
		wait(ctx, lookAgain)
	}
}

// mark writes a mark when all changes that were made by now are written.
func (t *trial) mark(ctx context.Context, mark history.Mark) error {
	sign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, GenerateName: "torture-"}}
	err := harness.Eventually(ctx, opTimeout, "a mark to be made", func(ctx context.Context) error {
		return t.stack.Plane.Client.Create(ctx, sign)
	})
	if err != nil {
		return err
	}
	var revision int64
	if _, err := fmt.Sscan(sign.ResourceVersion, &revision); err != nil {
		return fmt.Errorf("reading the revision of a mark: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := t.recorder.await(ctx, revision); err != nil {
		return fmt.Errorf("waiting for the history to be complete: %w", err)
	}
	// What the vCenter has noted by now is written within two of its intervals.
	wait(ctx, 2*vmInterval)
	t.to.Write(history.Record{Mark: mark})
	return errors.Join(t.to.Flush(), t.recorder.err())
}

// unsettled says what is still on its way.
func (t *trial) unsettled(ctx context.Context) error {
	var namespaces []string
	for _, a := range t.all() {
		namespaces = append(namespaces, a.ns)
		if err := t.going(ctx, a); err != nil {
			return err
		}
		if err := errors.Join(t.withEndpoints(ctx, a), t.setAside(ctx, a)); err != nil {
			return err
		}
	}
	return errors.Join(harness.CheckInvariants(ctx, t.stack.Plane.Client, harness.InvariantOptions{Namespaces: namespaces})...)
}

// going says what of an arena is being deleted, or is not as large as it is to be.
func (t *trial) going(ctx context.Context, a *arena) error {
	machines, workers := &capvv1.VSphereMachineList{}, &clusterv1.MachineDeploymentList{}
	for _, list := range []client.ObjectList{machines, workers} {
		if err := t.stack.Plane.Client.List(ctx, list, client.InNamespace(a.ns)); err != nil {
			return err
		}
	}
	count := map[string]int32{}
	for i := range machines.Items {
		machine := &machines.Items[i]
		if machine.DeletionTimestamp != nil {
			return fmt.Errorf("machine %s/%s is being deleted, with finalizers %v", a.ns, machine.Name, machine.Finalizers)
		}
		count[machine.Labels[clusterv1.MachineDeploymentNameLabel]]++
		if err := t.isServed(ctx, a, machine); err != nil {
			return err
		}
	}
	for i := range workers.Items {
		group := &workers.Items[i]
		if group.DeletionTimestamp != nil {
			return fmt.Errorf("MachineDeployment %s/%s is being deleted", a.ns, group.Name)
		}
		if count[group.Name] >= *group.Spec.Replicas {
			continue
		}
		full, err := t.isFull(ctx, a, group.Annotations[history.PoolsAnnotation])
		if err != nil || !full {
			return errors.Join(err, fmt.Errorf("MachineDeployment %s/%s has %d of %d machines", a.ns, group.Name, count[group.Name], *group.Spec.Replicas))
		}
	}
	return nil
}

// isServed says what a machine lacks that gets its address late, and could have it.
func (t *trial) isServed(ctx context.Context, a *arena, machine *capvv1.VSphereMachine) error {
	owned := slices.ContainsFunc(machine.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.Kind == "Machine" })
	ref := machine.Annotations[history.PoolsAnnotation]
	if !owned || ref == "" || len(harness.Addresses(machine)) > 0 {
		return nil
	}
	full, err := t.isFull(ctx, a, ref)
	if err != nil || full {
		return err
	}
	return fmt.Errorf("machine %s/%s has no address", a.ns, machine.Name)
}

// withEndpoints says which control plane lacks the endpoint that it could have.
func (t *trial) withEndpoints(ctx context.Context, a *arena) error {
	planes, clusters := &capvv1.VSphereClusterList{}, &clusterv1.ClusterList{}
	for _, list := range []client.ObjectList{planes, clusters} {
		if err := t.stack.Plane.Client.List(ctx, list, client.InNamespace(a.ns)); err != nil {
			return err
		}
	}
	full, err := t.isFull(ctx, a, a.vips.ref())
	if err != nil {
		return err
	}
	left := func(plane capvv1.VSphereCluster) bool {
		return plane.DeletionTimestamp != nil && !slices.ContainsFunc(clusters.Items, func(c clusterv1.Cluster) bool { return c.Name == plane.Name }) &&
			!slices.Contains(plane.Finalizers, ipam.ReleaseFinalizer)
	}
	// CAPV lets none of these go: the history says more of them.
	planes.Items = slices.DeleteFunc(planes.Items, left)
	for i := range planes.Items {
		if plane := &planes.Items[i]; plane.DeletionTimestamp != nil || plane.Spec.ControlPlaneEndpoint.Host == "" && !full {
			return fmt.Errorf("VSphereCluster %s/%s is being deleted (%v), or has no endpoint", a.ns, plane.Name, plane.DeletionTimestamp)
		}
	}
	for i := range clusters.Items {
		if clusters.Items[i].DeletionTimestamp != nil {
			return fmt.Errorf("the Cluster %s/%s is being deleted", a.ns, clusters.Items[i].Name)
		}
	}
	return nil
}

// setAside says what is kept out of a pool: who had it by hand is gone by now.
func (t *trial) setAside(ctx context.Context, a *arena) error {
	for _, kind := range claimKinds {
		claims, err := t.list(ctx, kind, a.ns)
		if err != nil {
			return err
		}
		for i := range claims {
			if _, aside := claims[i].Labels[ipam.SetAsideLabel]; aside {
				return fmt.Errorf("claim %s/%s is set aside", a.ns, claims[i].Name)
			}
		}
	}
	return nil
}

// isFull tells whether a pool of an arena has no free address.
func (t *trial) isFull(ctx context.Context, a *arena, ref string) (bool, error) {
	used, err := t.used(ctx, a.ns)
	return err == nil && used[ref] >= a.size(ref), err
}

// used counts the addresses of each pool of a namespace.
func (t *trial) used(ctx context.Context, ns string) (map[string]int, error) {
	ofMetal3, ofContract := &ipamv1.IPAddressList{}, &capiipamv1.IPAddressList{}
	for _, list := range []client.ObjectList{ofMetal3, ofContract} {
		if err := t.stack.Plane.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
			return nil, err
		}
	}
	used := map[string]int{}
	for i := range ofMetal3.Items {
		used[history.Metal3Pool+"/"+ofMetal3.Items[i].Spec.Pool.Name]++
	}
	for i := range ofContract.Items {
		used[ofContract.Items[i].Spec.PoolRef.Kind+"/"+ofContract.Items[i].Spec.PoolRef.Name]++
	}
	return used, nil
}

// undrained says what is left in the arenas.
func (t *trial) undrained(ctx context.Context) error {
	for _, a := range t.all() {
		if err := t.leftIn(ctx, a.ns); err != nil {
			return err
		}
	}
	return nil
}

// leftIn says what of machines and addresses is in a namespace.
func (t *trial) leftIn(ctx context.Context, ns string) error {
	for _, kind := range []schema.GroupVersionKind{
		clusterv1.GroupVersion.WithKind("Machine"), capvv1.GroupVersion.WithKind("VSphereMachine"), capvv1.GroupVersion.WithKind("VSphereVM"),
		ipamv1.GroupVersion.WithKind("IPClaim"), ipamv1.GroupVersion.WithKind("IPAddress"),
		capiipamv1.GroupVersion.WithKind("IPAddressClaim"), capiipamv1.GroupVersion.WithKind("IPAddress"),
	} {
		left, err := t.list(ctx, kind, ns)
		if err != nil {
			return err
		}
		if count := len(left); count > 0 {
			return fmt.Errorf("%d %s are left in %s, such as %s", count, kind.Kind, ns, left[0].Name)
		}
	}
	return nil
}

// probe makes a machine that must be served if its pool has room.
func (t *trial) probe(ctx context.Context, a *arena, s source) {
	full, err := t.isFull(ctx, a, s.ref())
	if err == nil && full {
		return
	}
	name := fmt.Sprintf("probe-%s-%d", s.name, t.ids.Add(1))
	op := history.Op{Worker: -1, Kind: history.Probe, Namespace: a.ns, Name: name, Pools: []string{s.ref()}}
	machine := harness.Machine(a.ns, name, asking([]source{s}))
	err = t.do(ctx, op, func(ctx context.Context) error {
		return t.await(context.WithoutCancel(ctx), probeTimeout, func(ctx context.Context) error {
			return t.stack.Plane.Client.Create(ctx, machine.DeepCopy())
		})
	})
	if err != nil {
		return
	}
	op.Kind = "delete"
	_ = t.do(ctx, op, func(ctx context.Context) error {
		if err := t.stack.Plane.Client.Delete(ctx, machine); err != nil {
			return err
		}
		return harness.WaitGone(ctx, t.stack.Plane.Client, machine, opTimeout)
	})
}
