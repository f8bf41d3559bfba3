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

// sightings are what was seen of the objects of a namespace, such as those that wait for an
// address.
type sightings struct {
	mu     sync.Mutex
	seen   map[string]bool
	errs   []error
	noteOf func(*unstructured.Unstructured) (string, error)
	stop   func()
	done   sync.WaitGroup
}

// watchWaiting watches the VSphereMachines and the VSphereVMs of the namespace
// from now on, and notes each that is said to wait for an address.
func (s *scene) watchWaiting() *sightings {
	s.Helper()
	return s.watch(func(object *unstructured.Unstructured) (string, error) {
		status, err := json.Marshal(object.Object["status"])
		if err != nil || !strings.Contains(string(status), `"`+waiting+`"`) {
			return "", err
		}
		return object.GetKind() + " " + object.GetName(), nil
	}, "VSphereMachine", "VSphereVM")
}

// watchAddresses watches the VSphereMachines of the namespace from now on, and notes with
// how many addresses their first devices are stored: "none", or as in "2 addresses".
func (s *scene) watchAddresses() *sightings {
	s.Helper()
	return s.watch(func(object *unstructured.Unstructured) (string, error) {
		devices, _, err := unstructured.NestedSlice(object.Object, "spec", "network", "devices")
		if err != nil || len(devices) == 0 {
			return "", err
		}
		device, _ := devices[0].(map[string]any)
		if addresses, _ := device["ipAddrs"].([]any); len(addresses) > 0 {
			return fmt.Sprintf("%d addresses", len(addresses)), nil
		}
		return "none", nil
	}, "VSphereMachine")
}

// watch watches these kinds in the namespace, and notes what it is told that is to be noted
// of each version of an object.
func (s *scene) watch(noteOf func(*unstructured.Unstructured) (string, error), kinds ...string) *sightings {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	found := &sightings{seen: map[string]bool{}, noteOf: noteOf, stop: cancel}
	for _, kind := range kinds {
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
		f.add(f.noteOf(object))
	}
	if ctx.Err() == nil {
		f.add("", errors.New("watching: the watch broke off, and may have missed something"))
	}
}

func (f *sightings) add(note string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if note != "" {
		f.seen[note] = true
	}
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

// list returns what was seen until now, and whether nothing can have been missed.
func (f *sightings) list() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var notes []string
	for note := range f.seen {
		notes = append(notes, note)
	}
	return notes, errors.Join(f.errs...)
}
