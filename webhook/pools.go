package webhook

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	infrav1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
)

// +kubebuilder:rbac:groups=infrastructure.cluster.x-k8s.io,resources=vspheremachinetemplates,verbs=get;list;watch

const (
	// PoolNameLabel on a machine, or on the template it was cloned from, names
	// the pool of all its eligible devices: the metal3 IPPool of that name in the
	// machine's namespace or, if there is none, the InClusterIPPool.
	PoolNameLabel = "cluster.x-k8s.io/ip-pool-name"

	// PoolsAnnotationPrefix and the index or the deviceName of a device make the
	// annotation, on a machine or on its template, that names the device's pool.
	PoolsAnnotationPrefix = "pools.capv-static-ip.dev/"
)

// asker is metadata that may ask for pools: the machine's own, or its template's.
type asker struct {
	metav1.Object
	// name is how a sentence names it.
	name string
}

// request is one way in which an asker names a pool.
type request struct {
	pool allocator.PoolReference
	// by says where it is written, for a denial that can be acted upon.
	by string
}

// wants lists what the machine's eligible devices ask for, and warns of those
// that ask for nothing and of requests that no device can use.
func (h *Handler) wants(ctx context.Context, m *machine) (wants []allocator.Want, warnings []string, err error) {
	asked, err := h.askers(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	for _, by := range asked {
		warnings = append(warnings, unusable(by, m)...)
	}
	for i, d := range m.Spec.Network.Devices {
		if !eligible(d) {
			continue
		}
		device := deviceOf(d, i)
		found, err := firstRequest(asked, device)
		if err != nil {
			return nil, nil, err
		}
		if found == nil {
			warnings = append(warnings, fmt.Sprintf("device %d has no source of addresses: "+
				"set dhcp4 or ipAddrs, or name a pool with label %s or annotation %s%d", i, PoolNameLabel, PoolsAnnotationPrefix, i))
			continue
		}
		if found.pool.Kind == "" {
			found.pool, err = h.Allocator.Named(ctx, m.Namespace, found.pool.Name)
			if err != nil {
				return nil, nil, err
			}
		}
		wants = append(wants, allocator.Want{Device: device, Pool: found.pool, AskedBy: found.by})
	}
	return wants, warnings, nil
}

// askers are the machine and its template; the machine's own metadata wins. Where
// it answers for every eligible device, what the cache knows of the template will
// do, for the warnings.
func (h *Handler) askers(ctx context.Context, m *machine) ([]asker, error) {
	own := asker{Object: &m.ObjectMeta, name: "the VSphereMachine"}
	if m.Annotations[clusterv1.TemplateClonedFromGroupKindAnnotation] != capi.VSphereMachineTemplateKind.String() {
		return []asker{own}, nil
	}
	readers := []client.Reader{h.Cache}
	if !own.answersFor(m) {
		readers = append(readers, h.Live)
	}
	name := m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]
	template, err := h.template(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, readers)
	if err != nil {
		return nil, err
	}
	return []asker{own, {Object: template, name: fmt.Sprintf("VSphereMachineTemplate %q", name)}}, nil
}

// answersFor tells whether the asker has an answer, be it a wrong one, for each
// device of the machine that waits for one.
func (a asker) answersFor(m *machine) bool {
	for i, d := range m.Spec.Network.Devices {
		if !eligible(d) {
			continue
		}
		if found, err := a.request(deviceOf(d, i)); found == nil && err == nil {
			return false
		}
	}
	return true
}

// firstRequest is the first answer for a device, nil if nobody asks for it.
func firstRequest(asked []asker, device allocator.Device) (*request, error) {
	for _, by := range asked {
		found, err := by.request(device)
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}

// request is what the asker wants for the device: its annotation for just this
// device, or else its label for all.
func (a asker) request(device allocator.Device) (*request, error) {
	for _, key := range keysOf(device) {
		text, ok := a.GetAnnotations()[PoolsAnnotationPrefix+key]
		if !ok {
			continue
		}
		by := fmt.Sprintf("annotation %s%s of %s", PoolsAnnotationPrefix, key, a.name)
		if strings.ContainsAny(text, ",|") {
			return nil, allocator.Refuse(allocator.PoolNameInvalid, "%s names several pools (%q): name one", by, text)
		}
		pool, err := parseReference(strings.TrimSpace(text))
		if err != nil {
			return nil, allocator.Refuse(allocator.PoolNameInvalid, "%s is not a reference to a pool: %s; write NAME, KIND/NAME or KIND.GROUP/NAME", by, err)
		}
		return &request{pool: pool, by: by}, nil
	}
	if name := a.GetLabels()[PoolNameLabel]; name != "" {
		return &request{pool: allocator.PoolReference{Name: name}, by: fmt.Sprintf("label %s of %s", PoolNameLabel, a.name)}, nil
	}
	return nil, nil
}

// keysOf are the names that a device goes by in an annotation. The index cannot
// be mistaken, so it comes first.
func keysOf(device allocator.Device) []string {
	keys := []string{strconv.Itoa(device.Index)}
	if device.DeviceName != "" {
		keys = append(keys, device.DeviceName)
	}
	return keys
}

// unusable warns of annotations for devices that do not exist, or that have
// another source of addresses and keep it.
func unusable(a asker, m *machine) []string {
	var warnings []string
	for _, name := range slices.Sorted(maps.Keys(a.GetAnnotations())) {
		key, ok := strings.CutPrefix(name, PoolsAnnotationPrefix)
		if !ok {
			continue
		}
		i := slices.IndexFunc(m.Spec.Network.Devices, func(d infrav1.NetworkDeviceSpec) bool { return d.DeviceName == key })
		if index, err := strconv.Atoi(key); err == nil && strconv.Itoa(index) == key && index >= 0 && index < len(m.Spec.Network.Devices) {
			i = index
		}
		switch {
		case i < 0:
			warnings = append(warnings, fmt.Sprintf("annotation %s of %s is for a device that the machine does not have", name, a.name))
		case !eligible(m.Spec.Network.Devices[i]):
			warnings = append(warnings, fmt.Sprintf("annotation %s of %s is not used: device %d has DHCP, addresses or pools of its own, or skipIPAllocation",
				name, a.name, i))
		}
	}
	return warnings
}

// template reads the metadata of a template, empty if there is none. Where one
// reader, a cache, knows no pool of it the next is asked: a template is often
// made in the same breath as its machines.
func (h *Handler) template(ctx context.Context, key client.ObjectKey, readers []client.Reader) (*metav1.PartialObjectMetadata, error) {
	for _, reader := range readers {
		template := allocator.MetadataOf(capi.InScheme(h.Scheme, capi.VSphereMachineTemplateKind))
		err := reader.Get(ctx, key, template)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading VSphereMachineTemplate %s: %w", key, err)
		}
		if namesPool(template) {
			return template, nil
		}
	}
	return &metav1.PartialObjectMetadata{}, nil
}

func namesPool(obj metav1.Object) bool {
	if obj.GetLabels()[PoolNameLabel] != "" {
		return true
	}
	for name := range obj.GetAnnotations() {
		if strings.HasPrefix(name, PoolsAnnotationPrefix) {
			return true
		}
	}
	return false
}

// isPaused tells whether the machine's Cluster is paused. A Cluster that does
// not exist is not.
func (h *Handler) isPaused(ctx context.Context, m *machine) (bool, error) {
	name := m.Labels[clusterv1.ClusterNameLabel]
	if name == "" {
		return false, nil
	}
	cluster := &capi.Cluster{}
	err := h.Cache.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: name}, cluster)
	if allocator.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Cluster %s/%s: %w", m.Namespace, name, err)
	}
	return cluster.IsPaused(), nil
}

// Sources are the kinds that admission reads from the cache.
func Sources(scheme *runtime.Scheme) []allocator.Source {
	template := allocator.MetadataOf(capi.InScheme(scheme, capi.VSphereMachineTemplateKind))
	return []allocator.Source{{Object: template}, {Object: &capi.Cluster{}}}
}
