package allocator

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/contract"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// metal3 serves claims of two APIs, and names the address objects of both alike.
func TestAddressThatMetal3GaveToAClaimOfItsOtherAPIIsUnfit(t *testing.T) {
	for name, test := range map[string]struct {
		change   func(*capiipamv1.IPAddress)
		provider ipam.Provider
		unfit    bool
	}{
		"the same address":           {func(*capiipamv1.IPAddress) {}, metal3.Provider{}, true},
		"the same in IPv6 notation":  {func(a *capiipamv1.IPAddress) { a.Spec.Address = "::ffff:10.0.0.10" }, metal3.Provider{}, true},
		"another address":            {func(a *capiipamv1.IPAddress) { a.Spec.Address = "10.0.0.11" }, metal3.Provider{}, false},
		"no address":                 {func(a *capiipamv1.IPAddress) { a.Spec.Address = "none" }, metal3.Provider{}, false},
		"of another name":            {func(a *capiipamv1.IPAddress) { a.Name = "another" }, metal3.Provider{}, false},
		"of another namespace":       {func(a *capiipamv1.IPAddress) { a.Namespace = "other" }, metal3.Provider{}, false},
		"of a provider with one API": {func(*capiipamv1.IPAddress) {}, contract.Provider{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			other := &capiipamv1.IPAddress{}
			other.Namespace, other.Name, other.Spec.Address = "ns", "one-10-0-0-10", "10.0.0.10"
			test.change(other)
			// The cache does not know of it yet.
			a := played(t)
			a.live = played(t, other).client

			err := a.checkOneGiven(t.Context(), test.provider)

			var unfit *ipam.Unfit
			switch found := errors.As(err, &unfit); {
			case found != test.unfit, !found && err != nil:
				t.Errorf("got error %v, want it to be unfit: %t", err, test.unfit)
			case found && (unfit.Cause != ipam.GivenTwice || unfit.IP != netip.MustParseAddr("10.0.0.10")):
				t.Errorf("%s is unfit for %s, want 10.0.0.10 for %s", unfit.IP, unfit.Cause, ipam.GivenTwice)
			}
		})
	}
}

func TestAddressIsNotAcceptedWhileItsTwinCannotBeRead(t *testing.T) {
	broken := errors.New("it is broken")
	a := played(t)
	a.live = interceptor.NewClient(a.client.(client.WithWatch), interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return broken
		},
	})

	if err := a.checkOneGiven(t.Context(), metal3.Provider{}); !errors.Is(err, broken) {
		t.Errorf("got error %v, want that of the API server", err)
	}
}

// checkOneGiven is checkGivenOnce for the address 10.0.0.10 of a provider.
func (a *Allocator) checkOneGiven(ctx context.Context, provider ipam.Provider) error {
	obj := ipam.EmptyAddress(provider)
	obj.SetNamespace("ns")
	obj.SetName("one-10-0-0-10")
	pool := ipam.Pool{Object: poolOf("one", "10.0.0.19"), Reference: metal3.PoolNamed("one")}
	return a.checkGivenOnce(ctx, provider, pool, provider.ReadAddress(obj), netip.MustParseAddr("10.0.0.10"))
}
