package demand

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// zoned is an API server with these objects.
func zoned(t *testing.T, objects ...client.Object) *Reader {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := capi.AddToScheme(scheme, nil); err != nil {
		t.Fatal(err)
	}
	var whole []*unstructured.Unstructured
	typed := fake.NewClientBuilder().WithScheme(scheme)
	for _, obj := range objects {
		if of, isWhole := obj.(*unstructured.Unstructured); isWhole {
			whole = append(whole, of)
			continue
		}
		typed = typed.WithObjects(obj)
	}
	c := typed.Build()
	return &Reader{Cache: c, Live: makers{Reader: c, whole: whole}, Scheme: scheme}
}

// makers has what machines are made for: kinds of which the scheme knows the metadata
// alone.
type makers struct {
	client.Reader
	whole []*unstructured.Unstructured
}

func (m makers) Get(ctx context.Context, key client.ObjectKey, obj client.Object, options ...client.GetOption) error {
	into, isWhole := obj.(*unstructured.Unstructured)
	if !isWhole {
		return m.Reader.Get(ctx, key, obj, options...)
	}
	for _, made := range m.whole {
		if made.GroupVersionKind() == into.GroupVersionKind() && client.ObjectKeyFromObject(made) == key {
			made.DeepCopyInto(into)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: into.GetKind()}, key.Name)
}

// zone is a failure domain with a network of its own, of which the zone asks for a pool
// if one is given.
func zone(name, pool string) []client.Object {
	zone := &capi.VSphereDeploymentZone{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: capi.VSphereDeploymentZoneSpec{FailureDomain: "fd-" + name}}
	if pool != "" {
		zone.Annotations = map[string]string{ipam.PoolsAnnotationPrefix + "0": pool}
	}
	domain := &capi.VSphereFailureDomain{ObjectMeta: metav1.ObjectMeta{Name: "fd-" + name}}
	domain.Spec.Topology.Networks = []string{"seg-" + name}
	return []client.Object{zone, domain}
}

// made is an object of Cluster API whose failure domain stands in these fields.
func made(kind, name, domain string, fields ...string) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	obj.SetAPIVersion("cluster.x-k8s.io/v1beta2")
	obj.SetKind(kind)
	obj.SetNamespace("ns")
	obj.SetName(name)
	obj.SetUID("uid")
	if err := unstructured.SetNestedField(obj.Object, domain, fields...); err != nil {
		panic(err)
	}
	return obj
}

func owner(kind, name string) string {
	return fmt.Sprintf(`"ownerReferences":[{"apiVersion":"cluster.x-k8s.io/v1beta2","kind":%q,"name":%q,"uid":"uid"}],`, kind, name)
}

// asking is a machine that asks for a pool by its own label, with further metadata.
func asking(metadata string) string {
	return `{"metadata":{"namespace":"ns","name":"m",` + metadata + `"annotations":{}},"spec":{"network":{"devices":[{"networkName":"own"}]}}}`
}

const (
	labels       = `"labels":{"cluster.x-k8s.io/ip-pool-name":"p"},`
	controlPlane = `"labels":{"cluster.x-k8s.io/ip-pool-name":"p","cluster.x-k8s.io/cluster-name":"c","cluster.x-k8s.io/control-plane":""},`
)

func TestFailureDomainsThatAMachineMayBeIn(t *testing.T) {
	yes, no := true, false
	cluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	without := cluster.DeepCopy()
	without.Status.FailureDomains = capi.FailureDomains{{Name: "a", ControlPlane: &no}}
	cluster.Status.FailureDomains = capi.FailureDomains{{Name: "b", ControlPlane: &yes}, {Name: "a", ControlPlane: &yes}, {Name: "c", ControlPlane: &no}}
	set := made("MachineSet", "md", "b", "spec", "template", "spec", "failureDomain")
	living := made("Machine", "m", "a", "spec", "failureDomain")
	another := set.DeepCopy()
	another.SetUID("another")
	a, b, anywhere := ipam.Site{FailureDomain: "a", Network: "seg-a"}, ipam.Site{FailureDomain: "b", Network: "seg-b"}, []ipam.Site{{Network: "own"}, {FailureDomain: "a", Network: "seg-a"}, {FailureDomain: "b", Network: "seg-b"}}
	for name, test := range map[string]struct {
		metadata string
		there    client.Object
		says     string
		want     []ipam.Site
	}{
		"of a MachineSet":                        {labels + owner("MachineSet", "md"), set, `MachineSet "md" is for`, []ipam.Site{b}},
		"of a MachineSet for a zone that is not": {labels + owner("MachineSet", "md"), made("MachineSet", "md", "x", "spec", "template", "spec", "failureDomain"), `MachineSet "md" is for`, []ipam.Site{{FailureDomain: "x", Network: "own"}}},
		"of a MachineSet for none":               {labels + owner("MachineSet", "md"), made("MachineSet", "md", "", "spec", "template", "spec", "failureDomain"), `MachineSet "md" is for`, []ipam.Site{{Network: "own"}}},
		"of a MachineSet that is gone":           {labels + owner("MachineSet", "md"), cluster, "the machine may be in", anywhere},
		"of another MachineSet of the name":      {labels + owner("MachineSet", "md"), another, "the machine may be in", anywhere},
		"of its Machine":                         {controlPlane + owner("Machine", "m"), living, `Machine "m" is for`, []ipam.Site{a}},
		"of a control plane":                     {controlPlane + owner("KubeadmControlPlane", "cp"), cluster, `the control plane of Cluster "c" is for`, []ipam.Site{a, b}},
		"of a control plane without domains":     {controlPlane + owner("KubeadmControlPlane", "cp"), without, `the control plane of Cluster "c" is for`, []ipam.Site{{Network: "own"}}},
		"of a control plane without Cluster":     {controlPlane + owner("KubeadmControlPlane", "cp"), set, "the machine may be in", anywhere},
		"of nobody":                              {labels, cluster, "the machine may be in", anywhere},
		"of something else that is a MachineSet": {labels + strings.Replace(owner("MachineSet", "md"), "cluster.x-k8s.io", "example.org", 1), set, "the machine may be in", anywhere},
	} {
		t.Run(name, func(t *testing.T) {
			r := zoned(t, append(append(zone("b", ""), zone("a", "")...), test.there)...)
			asks, _, err := r.Asks(t.Context(), decode(t, asking(test.metadata)))
			if err != nil || len(asks) != 1 || !reflect.DeepEqual(asks[0].Sites, test.want) || asks[0].DomainsOf != test.says {
				t.Errorf("got %+v and error %v, want sites %+v, %q", asks, err, test.want, test.says)
			}
		})
	}
}

// noReads is an API server that must not be asked.
type noReads struct {
	client.Reader
	t *testing.T
}

func (n noReads) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	n.t.Errorf("read %T %s", obj, key)
	return errors.New("not to be read")
}

func TestFailureDomainsCostNoReadWhereThereAreNone(t *testing.T) {
	r := zoned(t, made("MachineSet", "md", "b", "spec", "template", "spec", "failureDomain"))
	r.Live = noReads{t: t}
	for _, metadata := range []string{labels + owner("MachineSet", "md"), controlPlane + owner("KubeadmControlPlane", "cp")} {
		asks, _, err := r.Asks(t.Context(), decode(t, asking(metadata)))
		if err != nil || len(asks) != 1 || asks[0].Sites != nil {
			t.Errorf("got %+v and error %v, want no failure domains", asks, err)
		}
	}
}

func TestPoolThatFailureDomainsAskForComesBeforeTheTemplates(t *testing.T) {
	for name, test := range map[string]struct {
		change         func(zone client.Object)
		metadata, want string
	}{
		"by the zone": {metadata: owner("MachineSet", "md"), want: `annotation pools.capv-static-ip.dev/0 of VSphereDeploymentZone "b"`},
		"by the domain where the zone has none": {func(zone client.Object) { zone.SetAnnotations(nil) },
			owner("MachineSet", "md"), `annotation pools.capv-static-ip.dev/0 of VSphereFailureDomain "fd-b"`},
		"not by labels": {func(zone client.Object) {
			zone.SetAnnotations(nil)
			zone.SetLabels(map[string]string{"cluster.x-k8s.io/ip-pool-name": "labelled"})
		}, owner("MachineSet", "md"), `annotation pools.capv-static-ip.dev/0 of VSphereFailureDomain "fd-b"`},
		"not before the machine's own": {metadata: labels + owner("MachineSet", "md"), want: "label cluster.x-k8s.io/ip-pool-name of the VSphereMachine"},
	} {
		t.Run(name, func(t *testing.T) {
			b := zone("b", "of-b")
			b[1].SetAnnotations(map[string]string{ipam.PoolsAnnotationPrefix + "0": "of-fd"})
			if test.change != nil {
				test.change(b[0])
			}
			set := made("MachineSet", "md", "b", "spec", "template", "spec", "failureDomain")
			r := zoned(t, append(append(zone("a", "of-a"), b...), set)...)
			asks, _, err := r.Asks(t.Context(), decode(t, asking(test.metadata)))
			if err != nil || len(asks) != 1 || asks[0].AskedBy != test.want {
				t.Errorf("got %+v and error %v, want one by %s", asks, err, test.want)
			}
		})
	}
}

func TestPoolThatDependsOnTheFailureDomainIsUndecided(t *testing.T) {
	asks, _, err := zoned(t, append(zone("a", "of-a"), zone("b", "of-b")...)...).Asks(t.Context(), decode(t, asking("")))
	if !errors.Is(err, ipam.ErrUndecided) {
		t.Errorf("got %+v and error %v, want that it is undecided", asks, err)
	}
}

func TestFailureDomainThatTakesDHCPAwayIsSeen(t *testing.T) {
	yes, no := true, false
	for name, test := range map[string]struct {
		says []capi.NetworkConfiguration
		want bool
	}{
		"of IPv4":    {[]capi.NetworkConfiguration{{DHCP4: &yes}, {DHCP4: &no}}, true},
		"of IPv6":    {[]capi.NetworkConfiguration{{DHCP6: &no}}, true},
		"not by yes": {[]capi.NetworkConfiguration{{DHCP4: &yes}}, false},
		"not at all": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			objects := zone("a", "")
			objects[1].(*capi.VSphereFailureDomain).Spec.Topology.NetworkConfigurations = test.says
			if got, err := zoned(t, objects...).TakesDHCPAway(t.Context()); err != nil || got != test.want {
				t.Errorf("got %t and error %v, want %t", got, err, test.want)
			}
		})
	}
}
