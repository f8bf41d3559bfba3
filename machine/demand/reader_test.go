package demand

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

func decode(t *testing.T, raw string) *machine.Machine {
	t.Helper()
	m, err := machine.Decode([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// noZones is a cache without failure domains.
type noZones struct{ client.Reader }

func (noZones) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// emptyCache knows no object.
type emptyCache struct{ noZones }

func (emptyCache) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

// templateCache has a template of any name, which asks for nothing.
type templateCache struct{ noZones }

func (templateCache) Get(_ context.Context, key client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	if _, isTemplate := obj.(*metav1.PartialObjectMetadata); !isTemplate {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	obj.SetName(key.Name)
	return nil
}

func TestMachineThatNamesItsPoolsItselfIsKnownFromTheCache(t *testing.T) {
	cloned := `"annotations":{"cluster.x-k8s.io/cloned-from-name":"t","cluster.x-k8s.io/cloned-from-groupkind":"VSphereMachineTemplate.infrastructure.cluster.x-k8s.io"`
	for name, raw := range map[string]string{
		"by its label":                       `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"},` + cloned + `}},"spec":{"network":{"devices":[{},{}]}}}`,
		"by annotations for each device":     `{"metadata":{"name":"cp",` + cloned + `,"pools.capv-static-ip.dev/0":"a","pools.capv-static-ip.dev/eth1":"b"}},"spec":{"network":{"devices":[{},{"deviceName":"eth1"}]}}}`,
		"by one for the device without DHCP": `{"metadata":{"name":"cp",` + cloned + `,"pools.capv-static-ip.dev/1":"a"}},"spec":{"network":{"devices":[{"dhcp4":true},{}]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reader{Cache: templateCache{}, Live: nil, Scheme: runtime.NewScheme()} // a live read would panic

			asks, _, err := r.Asks(t.Context(), decode(t, raw))
			if err != nil || len(asks) == 0 {
				t.Errorf("got %+v and error %v", asks, err)
			}
		})
	}
}

// noGatewayTemplate is an API server with a template that wants no gateway.
type noGatewayTemplate struct{ client.Reader }

func (noGatewayTemplate) Get(_ context.Context, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
	obj.SetAnnotations(map[string]string{"gateway.capv-static-ip.dev/0": ipam.NoGateway})
	return nil
}

func TestTemplateThatTheCacheDoesNotHaveYetIsReadAllTheSame(t *testing.T) {
	r := &Reader{Cache: emptyCache{}, Live: noGatewayTemplate{}, Scheme: runtime.NewScheme()}
	m := decode(t, `{"metadata":{"name":"cp","labels":{"cluster.x-k8s.io/ip-pool-name":"pool"},"annotations":{"cluster.x-k8s.io/cloned-from-name":"t",`+
		`"cluster.x-k8s.io/cloned-from-groupkind":"VSphereMachineTemplate.infrastructure.cluster.x-k8s.io"}},"spec":{"network":{"devices":[{}]}}}`)

	asks, _, err := r.Asks(t.Context(), m)

	if err != nil || len(asks) != 1 || !asks[0].NoGateway {
		t.Errorf("got %+v and error %v, want one that needs no gateway", asks, err)
	}
}
