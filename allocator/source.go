package allocator

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/informers"
	"capv-static-ip.dev/allocator/ipam"
)

// Sources are the machines, and the kinds of the providers with handlers that
// wake waiting requests.
func (a *Allocator) Sources() []informers.Source {
	sources := userSources()
	for i := range sources {
		if _, isMachine := sources[i].Object.(*capi.VSphereMachine); isMachine {
			sources[i].Started = informers.OnChange(a.noteStored)
		}
	}
	for _, provider := range a.providers {
		claim, address := provider.Kinds()
		sources = append(sources,
			informers.Source{Object: claim, Indexes: indexUnadopted(provider), Started: informers.OnChange(func(claim client.Object) {
				a.bound.notify(client.ObjectKeyFromObject(claim))
			})},
			informers.Source{Object: address, Indexes: indexAddresses(provider), Started: informers.OnChange(func(address client.Object) {
				a.bound.notify(types.NamespacedName{Namespace: address.GetNamespace(), Name: provider.ReadAddress(address).Claim})
			})})
		for _, pool := range provider.PoolKinds() {
			sources = append(sources, informers.Source{Object: pool, Started: informers.OnChange(func(pool client.Object) {
				if provider.IsFull(pool) {
					a.full.notify(client.ObjectKeyFromObject(pool))
				}
			})})
		}
	}
	return sources
}

// noteStored tells waiting requests of a machine. What it was promised is in the
// caches from now on.
func (a *Allocator) noteStored(machine client.Object) {
	key := client.ObjectKeyFromObject(machine)
	a.stored.notify(key)
	for _, place := range machine.(capi.User).Addresses() {
		a.promised.drop(place.IP, holderKey{NamespacedName: key})
	}
}

// byClaim is the name of the cache index that finds addresses by their claim.
const byClaim = "capv-static-ip.dev/claim"

// indexAddresses indexes addresses by their claims, and those that are protected
// by what they are.
func indexAddresses(provider ipam.Provider) map[string]client.IndexerFunc {
	return map[string]client.IndexerFunc{
		byClaim: func(address client.Object) []string {
			return []string{provider.ReadAddress(address).Claim}
		},
		byIP: func(address client.Object) []string {
			ip, err := netip.ParseAddr(provider.ReadAddress(address).IP)
			if err != nil || !ipam.IsProtected(address) {
				return nil
			}
			return []string{ip.Unmap().String()}
		},
	}
}
