package machine

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

const endpointAnnotation = ipam.PoolsAnnotationPrefix + ipam.EndpointDevice

func vsphereCluster(labels, annotations map[string]string) *VSphereCluster {
	return &VSphereCluster{ObjectMeta: metav1.ObjectMeta{Name: "prod", Labels: labels, Annotations: annotations}}
}

func TestEndpointIsAskedFor(t *testing.T) {
	label, annotation := map[string]string{PoolNameLabel: "by-label"}, map[string]string{endpointAnnotation: "by-annotation"}
	ofCluster := &capi.Cluster{ObjectMeta: metav1.ObjectMeta{Name: "prod", Annotations: map[string]string{endpointAnnotation: "by-cluster"}}}
	for name, test := range map[string]struct {
		vsphereCluster *VSphereCluster
		cluster        *capi.Cluster
		pool, by       string
	}{
		"by nobody":                    {vsphereCluster(nil, nil), nil, "", ""},
		"by its label":                 {vsphereCluster(label, nil), nil, "by-label", "label " + PoolNameLabel + " of the VSphereCluster"},
		"by its annotation":            {vsphereCluster(label, annotation), nil, "by-annotation", "annotation " + endpointAnnotation + " of the VSphereCluster"},
		"by its Cluster":               {vsphereCluster(label, annotation), ofCluster, "by-cluster", "annotation " + endpointAnnotation + ` of Cluster "prod"`},
		"not by a Cluster without one": {vsphereCluster(label, nil), &capi.Cluster{}, "by-label", "label " + PoolNameLabel + " of the VSphereCluster"},
		"not by a device's annotation": {vsphereCluster(nil, map[string]string{ipam.PoolsAnnotationPrefix + "0": "a"}), nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ask, err := test.vsphereCluster.EndpointAsk(test.cluster)
			switch {
			case err != nil:
				t.Fatal(err)
			case ask == nil && test.pool == "":
			case ask == nil || ask.Choices[0].Pool.Name != test.pool || ask.AskedBy != test.by || !ask.Endpoint:
				t.Errorf("got %+v, want pool %q asked for by %s", ask, test.pool, test.by)
			}
		})
	}
}

func TestEndpointIsOneAddress(t *testing.T) {
	_, err := vsphereCluster(nil, map[string]string{endpointAnnotation: "a, b"}).EndpointAsk(nil)
	wantRefusal(t, err, ipam.PoolNameInvalid, "asks for 2 addresses: a control plane has one endpoint")
}

func endpointBinding() ipam.Binding {
	return ipam.Binding{
		Pool:  ipam.PoolReference{APIGroup: "ipam.metal3.io", Kind: "IPPool", Name: "vips"},
		Claim: "prod", Address: netip.MustParsePrefix("10.0.0.1/24"), Nameservers: []string{"10.0.0.53"},
	}
}

func edited(t *testing.T, raw string, edit func(Document) error) map[string]any {
	t.Helper()
	doc, err := decodeDocument([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	if err := edit(doc); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var stored map[string]any
	if err := json.Unmarshal(text, &stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

func endpointIn(doc map[string]any) string {
	text, _ := json.Marshal(doc["spec"].(map[string]any)["controlPlaneEndpoint"])
	return string(text)
}

func TestEndpointIsInjected(t *testing.T) {
	for raw, want := range map[string]string{
		`{"metadata":{"name":"prod"}}`:                                                               `{"host":"10.0.0.1","port":6443}`,
		`{"metadata":{"name":"prod"},"spec":{"server":"a"}}`:                                         `{"host":"10.0.0.1","port":6443}`,
		`{"metadata":{"name":"prod"},"spec":{"controlPlaneEndpoint":{"host":"","port":0}}}`:          `{"host":"10.0.0.1","port":6443}`,
		`{"metadata":{"name":"prod"},"spec":{"controlPlaneEndpoint":{"host":"","port":8443,"a":1}}}`: `{"a":1,"host":"10.0.0.1","port":8443}`,
	} {
		got := edited(t, raw, func(doc Document) error { return InjectEndpoint(doc, "prod", endpointBinding()) })
		if endpointIn(got) != want {
			t.Errorf("%s: got %s, want %s", raw, endpointIn(got), want)
		}
		metadata, _ := json.Marshal(got["metadata"])
		stored, err := DecodeVSphereCluster([]byte(`{"metadata":` + string(metadata) + `}`))
		if err != nil {
			t.Fatal(err)
		}
		bound, ok := stored.Bound()
		if !ok || bound.Address != endpointBinding().Address || bound.Claim != "prod" || bound.Nameservers != nil || !strings.Contains(string(metadata), ipam.ReleaseFinalizer) {
			t.Errorf("the metadata is %s", metadata)
		}
	}
}

func TestBindingOfAnotherHolderIsNotTheEndpoints(t *testing.T) {
	for name, bindings := range map[string]ipam.Bindings{
		"a copy":      EndpointBindings("dev", endpointBinding()),
		"a machine's": {Machine: "prod", Bindings: []ipam.Binding{endpointBinding()}},
	} {
		text, err := bindings.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if b, ok := vsphereCluster(nil, map[string]string{ipam.BindingsAnnotation: text}).Bound(); ok {
			t.Errorf("%s: got %+v", name, b)
		}
	}
}

func TestEndpointIsPinned(t *testing.T) {
	before := vsphereCluster(nil, nil)
	before.Spec.ControlPlaneEndpoint.Host, before.Spec.ControlPlaneEndpoint.Port = "10.0.0.1", 8443
	for raw, want := range map[string]string{
		`{"metadata":{},"spec":{}}`:                                                       `{"host":"10.0.0.1","port":8443}`,
		`{"metadata":{},"spec":{"controlPlaneEndpoint":{"port":6443}}}`:                   `{"host":"10.0.0.1","port":6443}`,
		`{"metadata":{},"spec":{"controlPlaneEndpoint":{"host":"10.0.0.1","port":8443}}}`: `{"host":"10.0.0.1","port":8443}`,
		`{"metadata":{},"spec":{"controlPlaneEndpoint":{"host":"10.0.0.2","port":8443}}}`: "",
	} {
		after, err := DecodeVSphereCluster([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			err := PinEndpoint(before, after, endpointBinding(), Document{})
			wantRefusal(t, err, ipam.EndpointPinned, `controlPlaneEndpoint.host is 10.0.0.1 from IPPool "vips", which the cluster's certificates and clients use: keep it`)
			continue
		}
		if got := endpointIn(edited(t, raw, func(doc Document) error { return PinEndpoint(before, after, endpointBinding(), doc) })); got != want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}
