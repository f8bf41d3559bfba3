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
			informers.Source{Object: claim, Indexes: indexClaims(provider), Started: informers.OnChange(func(claim client.Object) {
				a.bound.notify(client.ObjectKeyFromObject(claim))
			})},
			informers.Source{Object: address, Indexes: indexAddresses(provider), Started: informers.OnChange(func(address client.Object) {
				a.inFlight.end(client.ObjectKeyFromObject(address))
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

const (
	// byClaim is the name of the cache index that finds addresses by their claim.
	byClaim = "capv-static-ip.dev/claim"
	// byHolder finds addresses by whom they say they belong to.
	byHolder = "capv-static-ip.dev/holder"
	// byMachineUID finds protected addresses by the machine that has adopted them.
	byMachineUID = "capv-static-ip.dev/machine-uid"
	// byMark finds claims by the label of whom they were made for.
	byMark = "capv-static-ip.dev/mark"
)

// indexAddresses indexes addresses by their claims and by whom they belong to, and those
// that are protected by what they are, and by their machine.
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
		byHolder: func(address client.Object) []string {
			holder := ipam.HolderOf(address)
			if holder.Name == "" {
				return nil
			}
			return []string{valueOf(holder)}
		},
		byMachineUID: func(address client.Object) []string {
			uid := address.GetAnnotations()[ipam.MachineUIDAnnotation]
			if uid == "" || !ipam.IsProtected(address) {
				return nil
			}
			return []string{uid}
		},
		byRequester: func(address client.Object) []string {
			if requester := ipam.TakenFor(address); requester != "" {
				return []string{requester}
			}
			return nil
		},
		unadopted: func(address client.Object) []string {
			if !ipam.IsTaken(address) {
				return nil
			}
			return []string{provider.ReadAddress(address).Pool.String()}
		},
	}
}

// valueOf is the value of byHolder.
func valueOf(holder ipam.Holder) string { return string(holder.Kind) + "/" + holder.Name }

// indexClaims indexes claims by the label of whom they were made for, and those that no
// machine has adopted.
func indexClaims(provider ipam.Provider) map[string]client.IndexerFunc {
	indexes := indexUnadopted(provider)
	indexes[byMark] = func(claim client.Object) []string {
		label, ours := claim.GetLabels()[ipam.MachineLabel]
		if !ours {
			return nil
		}
		return []string{label}
	}
	return indexes
}
