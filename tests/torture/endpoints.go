package main

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/tests/harness"
	"capv-static-ip.dev/tests/torture/history"
)

const (
	// slotsForEndpoints is how many control planes a worker has at most, and endpointPoolSize
	// how many of them can have an endpoint.
	slotsForEndpoints, endpointPoolSize = 3, 2
	// endpointsBase begins the networks of endpoints.
	endpointsBase = 200
)

// vips is the pool for the endpoints of an arena: of one provider in one, of the other in
// the next.
func vips(number int) source {
	s := source{of: harness.OfMetal3, kind: history.Metal3Pool, name: "vips", network: fmt.Sprintf("10.%d.%d.", endpointsBase, number), count: endpointPoolSize}
	if number%2 == 1 {
		s.of, s.kind = harness.OfInCluster, history.InClusterPool
	}
	return s
}

// endpoint makes, edits and deletes control planes: each a Cluster and its VSphereCluster,
// without any machine.
func (w *worker) endpoint(ctx context.Context) {
	s := &w.planes[w.rand.IntN(len(w.planes))]
	if !s.taken {
		s.taken = w.createPlane(ctx, s.name)
		return
	}
	switch w.rand.IntN(6) {
	case 0, 1:
		w.deleteCluster(ctx, s)
	case 2:
		// The endpoint of a Cluster that lives stays, and comes back.
		w.replacePlane(ctx, s.name)
	case 3:
		_ = w.edit(ctx, &capvv1.VSphereCluster{}, s.name, []edit{
			{"drop endpoint", `{"metadata":{"annotations":{"torture":"%d"}},"spec":{"controlPlaneEndpoint":null}}`},
			{"edit bindings", `{"metadata":{"annotations":{"capv-static-ip.dev/bindings":null,"torture":"%d"}}}`},
		})
	case 4:
		w.pausePlane(ctx, s.name)
	}
}

// createPlane makes a Cluster and its VSphereCluster, one of them first. What may have been
// stored is taken to be.
func (w *worker) createPlane(ctx context.Context, name string) bool {
	cluster := harness.Cluster(w.ns, name, harness.WithAnnotation(harness.EndpointAnnotation, "true"))
	harness.WithAnnotation(history.PoolsAnnotation, w.vips.ref())(cluster)
	if paused := w.rand.IntN(3) == 0; paused {
		cluster.Spec.Paused = &paused
	}
	makeCluster := func() history.Outcome {
		return outcomeOf(w.do(ctx, w.about("create Cluster", name), func(ctx context.Context) error { return w.client.Create(ctx, cluster) }))
	}
	if w.rand.IntN(2) == 0 {
		if makeCluster() == history.Refused {
			return false // one of the name is going
		}
		// If this one is refused, the Cluster waits for it, as one does for a GitOps tool.
		w.createVSphereCluster(ctx, name)
	} else {
		if w.createVSphereCluster(ctx, name) == history.Refused {
			return false
		}
		makeCluster()
	}
	if cluster.Spec.Paused != nil {
		w.setPaused(ctx, name, "null")
	}
	return true
}

func (w *worker) createVSphereCluster(ctx context.Context, name string) history.Outcome {
	plane := harness.VSphereCluster(w.ns, name, harness.WithEndpoint("", 6443), harness.WithAnnotation(history.PoolsAnnotation, w.vips.ref()))
	harness.WithAnnotation("pools.capv-static-ip.dev/control-plane-endpoint", w.vips.ref())(plane)
	plane.Spec.Server = w.stack.VCenter.Server
	op := w.about(history.CreateEndpoint, name)
	op.Pools = []string{w.vips.ref()}
	return outcomeOf(w.do(ctx, op, func(ctx context.Context) error { return w.client.Create(ctx, plane) }))
}

// replacePlane deletes a VSphereCluster, and makes it anew as soon as it is gone. Without it
// nothing tells the one that has gone from one that a backup is about to bring.
func (w *worker) replacePlane(ctx context.Context, name string) {
	plane := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	err := w.do(ctx, w.about("delete VSphereCluster", name), func(ctx context.Context) error { return w.client.Delete(ctx, plane) })
	if err != nil && !apierrors.IsNotFound(err) {
		return
	}
	for range 2 * recreations {
		if outcome := w.createVSphereCluster(ctx, name); outcome == history.Done || ctx.Err() != nil {
			return
		}
		wait(ctx, betweenOps)
	}
}

// deleteCluster deletes a Cluster, and Cluster API its VSphereCluster before it. Without
// that, its address would wait for it for an hour.
func (w *worker) deleteCluster(ctx context.Context, s *slot) {
	if err := w.hasBoth(ctx, s.name); err != nil {
		w.createVSphereCluster(ctx, s.name)
		return
	}
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: s.name}}
	plane := &capvv1.VSphereCluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: s.name}}
	err := w.do(ctx, w.about("delete Cluster", s.name), func(ctx context.Context) error {
		err := w.client.Delete(ctx, cluster)
		if apierrors.IsNotFound(err) {
			// A VSphereCluster whose Cluster could not be made goes by itself.
			err = client.IgnoreNotFound(w.client.Delete(ctx, plane))
		}
		return err
	})
	s.taken = err != nil
}

// hasBoth fails if a Cluster has an endpoint and no VSphereCluster.
func (w *worker) hasBoth(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	key := client.ObjectKey{Namespace: w.ns, Name: name}
	cluster := &clusterv1.Cluster{}
	err := w.client.Get(ctx, key, cluster)
	if err != nil || cluster.Spec.ControlPlaneEndpoint.Host == "" {
		return client.IgnoreNotFound(err)
	}
	plane := &capvv1.VSphereCluster{}
	if err := w.client.Get(ctx, key, plane); err != nil {
		return err
	}
	if plane.DeletionTimestamp != nil {
		return fmt.Errorf("VSphereCluster %s is going", name)
	}
	return nil
}

// deletePlanes deletes all control planes at the end.
func (w *worker) deletePlanes(ctx context.Context) error {
	for i := range w.planes {
		s := &w.planes[i]
		s.taken = true
		err := harness.Eventually(ctx, mendTimeout, "control plane "+s.name+" to be deleted", func(ctx context.Context) error {
			if w.deleteCluster(ctx, s); !s.taken {
				return nil
			}
			wait(ctx, lookAgain)
			return errors.New("it is not deleted")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pausePlane pauses a Cluster for a moment.
func (w *worker) pausePlane(ctx context.Context, name string) {
	w.setPaused(ctx, name, "true")
	wait(ctx, betweenOps)
	w.setPaused(ctx, name, "null")
}

func (w *worker) setPaused(ctx context.Context, name, paused string) {
	cluster := &clusterv1.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"paused":`+paused+`}}`))
	kind := "pause Cluster"
	if paused == "null" {
		kind = "resume Cluster"
	}
	for range recreations {
		err := w.do(ctx, w.about(kind, name), func(ctx context.Context) error { return w.client.Patch(ctx, cluster, patch) })
		if err == nil || apierrors.IsNotFound(err) || paused != "null" {
			return
		}
		// One that stays paused would be found fault with for what it lacks.
		wait(context.WithoutCancel(ctx), betweenOps)
	}
}
