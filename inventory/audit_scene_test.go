package inventory

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// noon is when findings are looked for, and dawn when everything was made.
var (
	noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	dawn = metav1.NewTime(noon.Add(-6 * time.Hour))
)

// scene is a management cluster in which all is well: one machine of a MachineDeployment
// has an address of a pool of six.
type scene struct {
	pool       *ipamv1.IPPool
	machine    *capi.VSphereMachine
	vm         *capi.VSphereVM
	claim      *ipamv1.IPClaim
	address    *ipamv1.IPAddress
	cluster    *capi.Cluster
	vsphere    *capi.VSphereCluster
	deployment *unstructured.Unstructured
	template   *unstructured.Unstructured
	webhook    *admissionv1.MutatingWebhookConfiguration
	slice      *discoveryv1.EndpointSlice
	// gone are those of the above that do not exist, and more what else does.
	gone, more []client.Object
}

func metaOf(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), CreationTimestamp: dawn,
		Labels: map[string]string{clusterv1.ClusterNameLabel: "prod"}, Annotations: map[string]string{},
	}
}

func newScene() *scene {
	s := &scene{
		pool:    metal3Pool("10.0.0.2", "10.0.0.7", nil).(*ipamv1.IPPool),
		cluster: &capi.Cluster{ObjectMeta: metaOf("prod")},
		vsphere: &capi.VSphereCluster{ObjectMeta: metaOf("prod")},
		slice: &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "webhook-x", Labels: map[string]string{discoveryv1.LabelServiceName: "webhook"}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}},
		},
		webhook: aWebhook(),
	}
	s.pool.ObjectMeta, s.pool.Spec.ClusterName = metaOf("pool"), new("prod")
	s.machine, s.claim, s.address = s.bound("m", "10.0.0.2")
	s.vm = s.vmOf(s.machine, "10.0.0.2", "fe80::1")
	s.template = anObject("infrastructure.cluster.x-k8s.io/v1beta2", "VSphereMachineTemplate", "md", nil)
	s.deployment = anObject("cluster.x-k8s.io/v1beta2", "MachineDeployment", "md", map[string]any{
		"replicas": int64(1), "template": map[string]any{"spec": map[string]any{"infrastructureRef": map[string]any{"name": "md"}}},
	})
	return s
}

func anObject(version, kind, name string, spec map[string]any) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	object.SetAPIVersion(version)
	object.SetKind(kind)
	object.SetNamespace("ns")
	object.SetName(name)
	return object
}

// bound is a machine with its claim and its address of the scene's pool.
func (*scene) bound(name, ip string) (*capi.VSphereMachine, *ipamv1.IPClaim, *ipamv1.IPAddress) {
	m, claim, address := &capi.VSphereMachine{ObjectMeta: metaOf(name)}, &ipamv1.IPClaim{ObjectMeta: metaOf(name + "-0")}, &ipamv1.IPAddress{ObjectMeta: metaOf("pool-" + ip)}
	m.Labels[clusterv1.MachineDeploymentNameLabel] = "md"
	m.Finalizers = []string{ipam.ReleaseFinalizer}
	m.Spec.ProviderID = "vsphere://" + name
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "n", IPAddrs: []string{ip + "/24"}}}
	text, err := ipam.Bindings{Machine: name, Bindings: []ipam.Binding{{
		Pool: metal3.PoolNamed("pool"), Claim: claim.Name, Address: netip.MustParsePrefix(ip + "/24"), Device: ipam.Device{NetworkName: "n"},
	}}}.Encode()
	if err != nil {
		panic(err)
	}
	m.Annotations[ipam.BindingsAnnotation] = text
	claim.Spec.Pool.Name = "pool"
	claim.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: name, UID: m.UID}}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: name}})
	ipam.Use(claim, ipam.Stamp{Time: dawn.Time, Request: "r"})
	claim.Status.Address = new(claim.Spec.Pool)
	claim.Status.Address.Name = address.Name
	address.Spec.Address, address.Spec.Pool.Name, address.Spec.Claim.Name = ipamv1.IPAddressStr(ip), "pool", claim.Name
	address.OwnerReferences = []metav1.OwnerReference{{Kind: "IPClaim", Name: claim.Name, UID: claim.UID}}
	ipam.Protect(address, name)
	address.Annotations[ipam.MachineUIDAnnotation] = string(m.UID)
	return m, claim, address
}

// unbound is a machine with an address that somebody wrote there.
func unbound(name, ip string) *capi.VSphereMachine {
	m := &capi.VSphereMachine{ObjectMeta: metaOf(name)}
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "n", IPAddrs: []string{ip + "/24"}}}
	return m
}

func aWebhook() *admissionv1.MutatingWebhookConfiguration {
	return &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "mutating", Annotations: map[string]string{injectFrom: "system/serving"}},
		Webhooks: []admissionv1.MutatingWebhook{{
			Name: webhookName, FailurePolicy: new(admissionv1.Fail),
			ClientConfig:    admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "system", Name: "webhook"}, CABundle: authority(noon.Add(100 * 24 * time.Hour))},
			MatchConditions: []admissionv1.MatchCondition{{Name: "needs-an-address", Expression: "true"}},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{"infrastructure.cluster.x-k8s.io"}, Resources: []string{"vspheremachines"}},
			}},
		}},
	}
}

// authority is a certificate that ends then.
func authority(end time.Time) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: dawn.Time, NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// certificate is cert-manager's, of the serving certificate that ends then.
func certificate(end time.Time) client.Object {
	object := anObject("cert-manager.io/v1", "Certificate", "serving", nil)
	object.SetNamespace("system")
	object.Object["status"] = map[string]any{"notAfter": end.Format(time.RFC3339)}
	return object
}

func (s *scene) objects() []client.Object {
	objects := []client.Object{s.pool, s.machine, s.vm, s.claim, s.address, s.cluster, s.vsphere, s.deployment, s.template, s.webhook, s.slice}
	objects = slices.DeleteFunc(objects, func(object client.Object) bool { return slices.Contains(s.gone, object) })
	return append(objects, s.more...)
}

// client serves the objects.
func (s *scene) client(t *testing.T) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	err := errors.Join(clientgoscheme.AddToScheme(scheme), ipamv1.AddToScheme(scheme), capi.AddToScheme(scheme, nil), capiipamv1.AddToScheme(scheme))
	for kind, group := range map[string]string{
		"InClusterIPPool": "ipam.cluster.x-k8s.io/v1alpha2", "GlobalInClusterIPPool": "ipam.cluster.x-k8s.io/v1alpha2",
		"Certificate": "cert-manager.io/v1",
	} {
		gvk := schema.FromAPIVersionAndKind(group, kind)
		scheme.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
		scheme.AddKnownTypeWithName(gvk.GroupVersion().WithKind(kind+"List"), &unstructured.UnstructuredList{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(testrestmapper.TestOnlyStaticRESTMapper(scheme)).WithReturnManagedFields().
		WithObjects(s.objects()...).WithInterceptorFuncs(interceptor.Funcs{List: s.listWhole}).Build()
}

// listWhole lists the MachineDeployment whole, of which the fake client keeps the metadata.
func (s *scene) listWhole(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
	err := c.List(ctx, list, options...)
	if into, ok := list.(*unstructured.UnstructuredList); ok {
		for i := range into.Items {
			if into.Items[i].GetKind() == s.deployment.GetKind() {
				into.Items[i] = *s.deployment
			}
		}
	}
	return err
}

// askFor has the workload's machines ask for a pool. The server here keeps no spec of
// templates and of what makes machines, of which the product's types have only metadata.
func (w *Workload) askFor(pool ipam.PoolReference) {
	w.Places = []Place{{Asks: []ipam.Ask{{Choices: []ipam.Choice{{Pool: pool}}}}}}
}

// source reads the scene at noon.
func (s *scene) source(t *testing.T) Source {
	t.Helper()
	c := s.client(t)
	return Source{
		Client: c, Reader: c, Providers: ipam.NewProviders(contract.Provider{}, metal3.Provider{}),
		WithWorkloads: true, ForFindings: true, Now: func() time.Time { return noon },
	}
}

func (s *scene) anotherPool(start, end string) *ipamv1.IPPool {
	pool := s.pool.DeepCopy()
	pool.ObjectMeta = metaOf("another")
	*pool.Spec.Pools[0].Start, *pool.Spec.Pools[0].End = ipamv1.IPAddressStr(start), ipamv1.IPAddressStr(end)
	return pool
}

func (*scene) inCluster(name, addresses, gateway, servers string) client.Object {
	pool := inClusterPool(map[string]any{"addresses": []any{addresses}, "prefix": int64(28), "gateway": gateway})
	pool.SetNamespace("ns")
	pool.SetName(name)
	if servers != "" {
		pool.SetAnnotations(map[string]string{ipam.NameserversAnnotation: servers})
	}
	return pool
}

// vmOf is the VM of a machine, whose guest reports these addresses.
func (*scene) vmOf(m *capi.VSphereMachine, reported ...string) *capi.VSphereVM {
	vm := &capi.VSphereVM{ObjectMeta: metaOf(m.Name), Spec: capi.VSphereVMSpec{Network: m.Spec.Network}}
	vm.OwnerReferences = []metav1.OwnerReference{{Kind: "VSphereMachine", Name: m.Name, UID: m.UID}}
	vm.Status.Addresses = reported
	return vm
}

// stamp says that the claim was last used so long ago.
func (s *scene) stamp(ago time.Duration) {
	ipam.Use(s.claim, ipam.Stamp{Time: noon.Add(-ago), Request: "r"})
}

// cool has the machine gone so long ago, and its address cool down.
func (s *scene) cool(ago time.Duration) {
	s.gone = []client.Object{s.machine, s.vm}
	ipam.CoolAddress(s.address, ipam.Holder{Name: "m"}, noon.Add(-ago))
	ipam.CoolClaim(s.claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "ns", Name: "m"}}, noon.Add(-ago))
}

// endpoint gives the VSphereCluster this endpoint, and returns its address and its claim.
func (s *scene) endpoint(ip string) []client.Object {
	m, claim, address := s.bound("prod", ip)
	text := m.Annotations[ipam.BindingsAnnotation]
	bindings, err := ipam.ParseBindings(text)
	if err != nil {
		panic(err)
	}
	bindings.Kind = ipam.OfCluster
	if s.vsphere.Annotations[ipam.BindingsAnnotation], err = bindings.Encode(); err != nil {
		panic(err)
	}
	s.vsphere.Spec.ControlPlaneEndpoint.Host = ip
	claim.Name, claim.OwnerReferences = "prod", nil
	delete(claim.Annotations, ipam.MachineNameAnnotation)
	ipam.Mark(claim, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: types.NamespacedName{Namespace: "ns", Name: "prod"}})
	address.Name, address.Spec.Claim.Name = "endpoint", "prod"
	claim.Status.Address.Name = address.Name
	ipam.ProtectFor(address, ipam.Holder{Kind: ipam.OfCluster, Name: "prod"})
	return []client.Object{claim, address}
}

func (*scene) waiting(since time.Duration) *capi.VSphereMachine {
	m := &capi.VSphereMachine{ObjectMeta: metaOf("waits")}
	m.CreationTimestamp = metav1.NewTime(noon.Add(-since))
	m.Spec.Network.Devices = []capi.Device{{NetworkName: "n"}}
	return m
}

// everywhere gives the pool's claim and address another pool.
func (s *scene) everywhere(pool string) {
	s.claim.Spec.Pool.Name, s.address.Spec.Pool.Name = pool, pool
	var bindings map[string]any
	if err := json.Unmarshal([]byte(s.machine.Annotations[ipam.BindingsAnnotation]), &bindings); err != nil {
		panic(err)
	}
	bindings["bindings"].([]any)[0].(map[string]any)["pool"].(map[string]any)["name"] = pool
	text, err := json.Marshal(bindings)
	if err != nil {
		panic(err)
	}
	s.machine.Annotations[ipam.BindingsAnnotation] = string(text)
}

// refused is a MachineSet whose machine was refused so long ago, for want of an address.
func refused(ago time.Duration) client.Object {
	at := metav1.NewTime(noon.Add(-ago))
	set := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "cluster.x-k8s.io/v1beta2", Kind: "MachineSet"},
		ObjectMeta: metaOf("set"),
	}
	set.Annotations[ipam.RefusedByAnnotation] = "IPPool.ipam.metal3.io/pool"
	set.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "capi", APIVersion: "cluster.x-k8s.io/v1beta2", FieldsType: "FieldsV1", Operation: metav1.ManagedFieldsOperationUpdate, Time: &dawn, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)},
		{Manager: "capv-static-ip", APIVersion: "cluster.x-k8s.io/v1beta2", FieldsType: "FieldsV1", Operation: metav1.ManagedFieldsOperationUpdate, Time: &at, FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:` + ipam.RefusedByAnnotation + `":{}}}}`)},
	}
	return set
}

// failed is somebody's claim that metal3 has given up.
func failed(made metav1.Time) client.Object {
	claim := &ipamv1.IPClaim{ObjectMeta: metaOf("theirs")}
	claim.CreationTimestamp, claim.Spec.Pool.Name, claim.Status.ErrorMessage = made, "pool", new("Exhausted IP Pools")
	return claim
}
