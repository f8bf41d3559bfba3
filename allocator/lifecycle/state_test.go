package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// metal3's two controllers may each make an address for one claim.
func TestAddressThatTheMachineWasGivenComesBeforeTheOneThatTheClaimNames(t *testing.T) {
	named := bound(func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
		a.Name, a.Spec.Address = "second", "10.0.0.2"
		c.Status.Address = &corev1.ObjectReference{Name: "second"}
	})
	given := bound(func(_ *holding, _ *ipamv1.IPClaim, a *ipamv1.IPAddress) { a.Name = "first" })

	got, err := (&Reconciler{}).addressOf(t.Context(), "ns", &named, []ipam.Address{*named.address, *given.address})
	if err != nil || got.GetName() != "first" {
		t.Errorf("got %v and error %v, want the address named first", got, err)
	}
}

// Whoever may write claims may write what our marks are made of. Only those are
// waited for that a request of ours can wait for.
func TestOnlyClaimsThatARequestWaitsForMakeAProviderBusy(t *testing.T) {
	for name, test := range map[string]struct {
		mark func(*ipamv1.IPClaim)
		want bool
	}{
		"of requests":                   {func(c *ipamv1.IPClaim) { ipam.Use(c, ipam.Stamp{Time: now, Request: "request"}) }, true},
		"of requests by a clock before": {func(c *ipamv1.IPClaim) { ipam.Use(c, ipam.Stamp{Time: now.Add(time.Second), Request: "request"}) }, true},
		"used again": {func(c *ipamv1.IPClaim) {
			c.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
			ipam.Use(c, ipam.Stamp{Time: now}.Again())
		}, true},
		"of requests that are over": {func(c *ipamv1.IPClaim) {
			ipam.Use(c, ipam.Stamp{Time: now.Add(-maxWebhookTimeout), Request: "request"})
		}, false},
		"stamped in the far future": {func(c *ipamv1.IPClaim) { ipam.Use(c, ipam.Stamp{Time: now.Add(time.Hour), Request: "request"}) }, false},
		"not stamped":               {func(*ipamv1.IPClaim) {}, false},
		"not marked": {func(c *ipamv1.IPClaim) {
			c.Labels, c.Annotations = nil, map[string]string{ipam.RequestedByAnnotation: "none"}
			ipam.Use(c, ipam.Stamp{Time: now, Request: "request"})
		}, false},
		"marked by half": {func(c *ipamv1.IPClaim) {
			c.Labels = nil
			ipam.Use(c, ipam.Stamp{Time: now, Request: "request"})
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []client.Object
			for i := range 2 * busyClaims {
				machine := fmt.Sprintf("md-%d", i)
				claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: ipam.ClaimName(machine, ipam.Slot{Device: 0}), CreationTimestamp: metav1.NewTime(now)}}
				ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Name: machine}})
				requested(nil, claim, nil)
				test.mark(claim)
				objects = append(objects, claim)
			}
			r := reconciler(t, objects...)
			r.at(now)
			h := bound(withoutOwner)
			h.claim.SetNamespace("ns")

			got, err := r.isBusy(t.Context(), &h)
			if err != nil || got != test.want {
				t.Errorf("busy is %t (error %v), want %t", got, err, test.want)
			}
		})
	}
}

// Where many networks have the same ranges, one address is on a machine of each. A
// release that read them all would take longer with each of them.
func TestMachinesThatHaveTheSameAddressInOtherNamespacesAreNotRead(t *testing.T) {
	address := left(now)
	objects := []client.Object{address}
	for i := range 5 {
		machine := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("tenant-%d", i), Name: "cp-0"}}
		machine.Spec.Network.Devices = []capi.Device{{NetworkName: "lab", IPAddrs: []string{"10.0.0.1/24"}}}
		objects = append(objects, machine)
	}
	r := reconciler(t, objects...)
	read := 0
	r.live = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if key.Namespace != "ns" {
				read++
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})

	r.settle(t.Context(), t)

	if read > 0 {
		t.Errorf("read %d machines of other namespaces", read)
	}
}

// busyMapper answers no question, as one does that is asked too often.
type busyMapper struct{ meta.RESTMapper }

func (busyMapper) RESTMapping(schema.GroupKind, ...string) (*meta.RESTMapping, error) {
	return nil, errors.New("asked too often")
}

type withBusyMapper struct{ client.Client }

func (withBusyMapper) RESTMapper() meta.RESTMapper { return busyMapper{} }

func TestScopeOfAPoolIsOfInterestOnlyWhereAMachineElsewhereHasItsAddress(t *testing.T) {
	elsewhere := &capi.VSphereMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "m"}}
	elsewhere.Spec.Network.Devices = []capi.Device{{IPAddrs: []string{"10.0.0.1/24"}}}
	for name, test := range map[string]struct {
		others []client.Object
		asked  bool
	}{
		"none has it": {nil, false},
		"one has it":  {[]client.Object{elsewhere}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := reconciler(t, append(test.others, left(now))...)
			r.client = withBusyMapper{r.client}

			_, err := r.observe(t.Context(), types.NamespacedName{Namespace: "ns", Name: "cp-0"})

			if asked := err != nil; asked != test.asked {
				t.Errorf("it was asked: %t (error %v), want %t", asked, err, test.asked)
			}
		})
	}
}
