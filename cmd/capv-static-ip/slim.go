package main

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
	"capv-static-ip.dev/inventory"
)

// maxAnnotations is the size of the annotations that are kept of an object in a
// cache: those that are read are short. A machine's bindings come on top.
const maxAnnotations = 16 << 10

// slim is the transform of the caches: it drops what nobody here reads. An object
// may have 256 KiB of annotations, to begin with all that kubectl applied, and
// there may be thousands.
func slim(obj any) (any, error) {
	object, err := meta.Accessor(obj)
	if err != nil {
		return obj, nil //nolint:nilerr // a tombstone has nothing to drop
	}
	object.SetManagedFields(nil)
	object.SetAnnotations(slimAnnotations(object))
	if whole, ok := obj.(*unstructured.Unstructured); ok {
		inventory.Slim(whole)
	}
	return obj, nil
}

// slimAnnotations keeps those that are read. If it drops any, it keeps the name
// of one of them, without its value: a patch that takes our last annotation off
// the object would else say that the object has none, and remove them all.
func slimAnnotations(object metav1.Object) map[string]string {
	all := object.GetAnnotations()
	kept, left, dropped := map[string]string{}, maxAnnotations, ""
	if _, isMachine := object.(*capi.VSphereMachine); isMachine {
		if text, bound := all[ipam.BindingsAnnotation]; bound && len(text) <= ipam.MaxBindingsSize {
			kept[ipam.BindingsAnnotation] = text
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(all), oursFirst) {
		if _, done := kept[name]; done {
			continue
		}
		size := len(name) + len(all[name])
		if isRead(name) && size <= left {
			kept[name], left = all[name], left-size
			continue
		}
		dropped = name
	}
	if dropped == "" {
		return all
	}
	kept[dropped] = ""
	// A statement of a pool that has lost its value refuses everybody, and the API server
	// is asked; one that has lost its name would let everybody in.
	for _, name := range ipam.Statements() {
		_, has := all[name]
		if _, done := kept[name]; has && !done {
			kept[name] = ""
		}
	}
	return kept
}

// isRead tells whether some part of the program reads an annotation of this name.
func isRead(name string) bool {
	return ipam.ReadsAnnotation(name) || name == metal3.RequestAnnotation
}

// oursFirst orders the names of annotations by how much is lost without them.
func oursFirst(a, b string) int {
	ours := func(name string) bool { return strings.HasPrefix(name, "capv-static-ip.dev/") }
	switch {
	case ours(a) && !ours(b):
		return -1
	case ours(b) && !ours(a):
		return 1
	}
	return strings.Compare(a, b)
}
