package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
)

// waiting is the reason, in conditions of both versions, that CAPV gives while a
// machine has no address.
const waiting = capvv1.VSphereVMVirtualMachineWaitingForStaticIPAllocationReason

// sightings are the objects that were seen to wait for an address.
type sightings struct {
	mu   sync.Mutex
	seen map[string]bool
	errs []error
	stop func()
	done sync.WaitGroup
}

// watchWaiting watches the VSphereMachines and the VSphereVMs of the namespace
// from now on, and notes each that is said to wait for an address.
func (s *scene) watchWaiting() *sightings {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	found := &sightings{seen: map[string]bool{}, stop: cancel}
	for _, kind := range []string{"VSphereMachine", "VSphereVM"} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(capvv1.GroupVersion.WithKind(kind + "List"))
		watcher, err := s.stack.Plane.Client.Watch(ctx, list, client.InNamespace(s.ns))
		if err != nil {
			s.Fatalf("watching %s: %v", kind, err)
		}
		found.done.Go(func() { found.follow(ctx, watcher) })
	}
	s.Cleanup(func() {
		cancel()
		found.done.Wait()
	})
	return found
}

func (f *sightings) follow(ctx context.Context, watcher watch.Interface) {
	defer watcher.Stop()
	for event := range watcher.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			f.add("", fmt.Errorf("watching: got %T", event.Object))
			continue
		}
		if event.Type == watch.Deleted {
			continue
		}
		if status, err := json.Marshal(object.Object["status"]); err != nil || strings.Contains(string(status), `"`+waiting+`"`) {
			f.add(object.GetKind()+" "+object.GetName(), err)
		}
	}
	if ctx.Err() == nil {
		f.add("", errors.New("watching: the watch broke off, and may have missed something"))
	}
}

func (f *sightings) add(object string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if object != "" {
		f.seen[object] = true
	}
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

// list returns what was seen until now, and whether nothing can have been missed.
func (f *sightings) list() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var objects []string
	for object := range f.seen {
		objects = append(objects, object)
	}
	return objects, errors.Join(f.errs...)
}
