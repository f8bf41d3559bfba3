package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// endpointPort is the port of an endpoint that has none.
const endpointPort = 6443

// VSphereCluster is what admission reads of one. These fields have the same names and
// shapes in v1beta1 and v1beta2 of the API.
type VSphereCluster struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ControlPlaneEndpoint struct {
			Host string `json:"host"`
			Port int32  `json:"port"`
		} `json:"controlPlaneEndpoint"`
	} `json:"spec"`
}

// DecodeVSphereCluster reads a VSphereCluster as the API server sends it.
func DecodeVSphereCluster(raw []byte) (*VSphereCluster, error) {
	if len(raw) == 0 {
		return nil, errors.New("the request holds no VSphereCluster")
	}
	c := &VSphereCluster{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("reading the VSphereCluster: %w", err)
	}
	return c, nil
}

// Host is its endpoint, a name or an address, empty if it has none.
func (c *VSphereCluster) Host() string { return c.Spec.ControlPlaneEndpoint.Host }

// Identity is the VSphereCluster as an address is claimed for it, with its Cluster if that
// exists: some providers serve no claim of a Cluster that does not.
func (c *VSphereCluster) Identity(cluster *capi.Cluster) ipam.Machine {
	identity := ipam.Machine{
		Kind:           ipam.OfCluster,
		NamespacedName: types.NamespacedName{Namespace: c.Namespace, Name: c.Name},
		WatchFilter:    c.Labels[clusterv1.WatchLabel],
	}
	if cluster != nil {
		identity.Cluster = cluster.Name
	}
	return identity
}

// EndpointAsk is what a VSphereCluster asks for its endpoint, nil if for nothing. The
// annotation on its Cluster, which may be nil, wins over its own metadata.
func (c *VSphereCluster) EndpointAsk(cluster *capi.Cluster) (*Ask, error) {
	own := Asker{Object: &c.ObjectMeta, Name: "the VSphereCluster"}
	var found *answer
	var err error
	if cluster != nil {
		found, err = Asker{Object: cluster, Name: fmt.Sprintf("Cluster %q", cluster.Name)}.annotated(ipam.EndpointDevice)
	}
	if found == nil && err == nil {
		found, err = own.annotated(ipam.EndpointDevice)
	}
	if found == nil && err == nil {
		found = own.labelled()
	}
	switch {
	case err != nil, found == nil:
		return nil, err
	case len(found.Expression) > 1:
		return nil, ipam.Refuse(ipam.PoolNameInvalid, "%s asks for %d addresses: a control plane has one endpoint", found.by, len(found.Expression))
	}
	ask := found.asks(ipam.Device{}, true)[0]
	ask.Endpoint = true
	return &ask, nil
}

// AsksForEndpoint tells whether a VSphereCluster asks itself, even wrongly: that decides
// whether it is looked at.
func AsksForEndpoint(cluster metav1.Object) bool {
	_, annotated := cluster.GetAnnotations()[ipam.PoolsAnnotationPrefix+ipam.EndpointDevice]
	return annotated || len(Asker{Object: cluster}.labels()) > 0
}

// EndpointFor judges the Cluster, which may be nil, of a VSphereCluster that holds these
// addresses. It says, in a sentence, why the VSphereCluster is left alone for its sake. A
// Cluster that has an endpoint keeps it for ever. If that is an address which is still
// held for a VSphereCluster of this name, it is the only one that may be injected.
func EndpointFor(cluster *capi.Cluster, held []ipam.Binding) (only netip.Addr, leave string) {
	if cluster == nil {
		return netip.Addr{}, ""
	}
	if cluster.IsPaused() {
		return netip.Addr{}, fmt.Sprintf("Cluster %q is paused: the endpoint follows when it is resumed", cluster.Name)
	}
	host := cluster.Spec.ControlPlaneEndpoint.Host
	if host == "" {
		return netip.Addr{}, ""
	}
	ip := capi.ParseAddress(host)
	if ip.IsValid() && slices.ContainsFunc(held, func(b ipam.Binding) bool { return b.Address.Addr() == ip }) {
		return ip, ""
	}
	return netip.Addr{}, fmt.Sprintf("Cluster %q has the endpoint %s already: no address is claimed", cluster.Name, host)
}

// CheckEndpoint refuses an address for a VSphereCluster whose Cluster has another one,
// if only one is valid.
func CheckEndpoint(b ipam.Binding, only netip.Addr, cluster string) error {
	if !only.IsValid() || b.Address.Addr() == only {
		return nil
	}
	return ipam.Refuse(ipam.EndpointPinned, "Cluster %q has the endpoint %s, and %s %q has given the VSphereCluster another address: "+
		"set controlPlaneEndpoint.host to it", cluster, only, b.Pool.Kind, b.Pool.Name)
}

// Bound is the address that a VSphereCluster holds, false if it holds none: a binding of
// another one in a copied manifest is not its own.
func (c *VSphereCluster) Bound() (ipam.Binding, bool) {
	bindings, err := ipam.ParseBindings(c.Annotations[ipam.BindingsAnnotation])
	if err != nil || bindings.Machine != c.Name || bindings.Kind != ipam.OfCluster || len(bindings.Bindings) != 1 {
		return ipam.Binding{}, false
	}
	return bindings.Bindings[0], true
}

// InjectEndpoint writes the address of a binding into a VSphereCluster as the host of its
// endpoint, and what makes the release of it sure into the metadata.
func InjectEndpoint(doc Document, name string, b ipam.Binding) error {
	doc.setEndpoint(b.Address.Addr(), endpointPort)
	text, err := EndpointBindings(name, b).Encode()
	if err != nil {
		return err
	}
	return doc.addMarks(text)
}

// EndpointBindings are those that a VSphereCluster holds. An endpoint has no use for what
// else a pool says of its addresses.
func EndpointBindings(name string, b ipam.Binding) ipam.Bindings {
	b = ipam.Binding{Pool: b.Pool, Claim: b.Claim, Address: b.Address}
	return ipam.Bindings{Machine: name, Kind: ipam.OfCluster, Bindings: []ipam.Binding{b}}
}

// PinEndpoint gives back to a VSphereCluster the host that an update took from it. It
// returns a Refusal if the update has another host.
func PinEndpoint(before, after *VSphereCluster, b ipam.Binding, doc Document) error {
	ip := b.Address.Addr()
	switch host := after.Host(); {
	case host == "":
		doc.setEndpoint(ip, before.Spec.ControlPlaneEndpoint.Port)
	case capi.ParseAddress(host) != ip:
		return ipam.Refuse(ipam.EndpointPinned, "controlPlaneEndpoint.host is %s from %s %q, which the cluster's certificates and clients use: keep it",
			ip, b.Pool.Kind, b.Pool.Name)
	}
	return nil
}

// setEndpoint writes the host, and the port where there is none.
func (doc Document) setEndpoint(host netip.Addr, port int32) {
	spec, _ := doc["spec"].(map[string]any)
	if spec == nil {
		spec = map[string]any{}
	}
	endpoint, _ := spec["controlPlaneEndpoint"].(map[string]any)
	if endpoint == nil {
		endpoint = map[string]any{}
	}
	endpoint["host"] = host.String()
	if has, _ := endpoint["port"].(json.Number); has == "" || has == "0" {
		endpoint["port"] = port
	}
	spec["controlPlaneEndpoint"] = endpoint
	doc["spec"] = spec
}
