package integration

import (
	"context"
	"errors"
	"fmt"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/harness"
)

// play is a provider that answers each claim in the scene, of the kind of this
// list, as it is told to, until the function that is returned is called.
func play[T client.Object](s *scene, list client.ObjectList, answer func(context.Context, T) error) (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	claims, err := s.env.Client.Watch(ctx, list, client.InNamespace(s.ns))
	if err != nil {
		s.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range claims.ResultChan() {
			claim, ok := event.Object.(T)
			if !ok || event.Type != watch.Added {
				continue
			}
			if err := answer(ctx, claim); err != nil && ctx.Err() == nil {
				s.Errorf("playing the provider: %v", err)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// What metal3 never does is played here, with metal3 stopped.
func (s *scene) playProvider(answer func(context.Context, *ipamv1.IPClaim) error) (stop func()) {
	s.Helper()
	return play(s, &ipamv1.IPClaimList{}, answer)
}

// addressFor is the answer to a claim, owned by it as metal3's is.
func addressFor(claim *ipamv1.IPClaim, ip ipamv1.IPAddressStr) *ipamv1.IPAddress {
	address := &ipamv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, GenerateName: claim.Name + "-"},
		Spec: ipamv1.IPAddressSpec{
			Claim: corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name},
			Pool:  claim.Spec.Pool, Address: ip, Prefix: 24,
		},
	}
	harness.WithOwner(claim)(address)
	return address
}

// tell makes a claim name its answer.
func (s *scene) tell(ctx context.Context, claim *ipamv1.IPClaim, address string) error {
	before := claim.DeepCopy()
	claim.Status.Address = &corev1.ObjectReference{Namespace: claim.Namespace, Name: address}
	if err := s.env.Client.Status().Patch(ctx, claim, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("naming the address of claim %s: %w", claim.Name, err)
	}
	return nil
}

func addressOutsideThePoolIsDenied(s *scene) {
	s.create(harness.Pool(s.ns, harness.PoolRange("10.16.56.88", "10.16.56.188")))
	given := 0
	stop := s.playProvider(func(ctx context.Context, claim *ipamv1.IPClaim) error {
		given++
		address := addressFor(claim, ipamv1.IPAddressStr(fmt.Sprintf("10.99.0.%d", given)))
		if err := s.env.Client.Create(ctx, address); err != nil {
			return err
		}
		return s.tell(ctx, claim, address.Name)
	})
	defer stop()

	s.denyMachines(`IPPool "dkp-cluster" in namespace "NAMESPACE" answered with an unusable address: it is outside the pool's ranges; correct the pool`,
		harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
}

func addressInDeletionIsDenied(s *scene) {
	s.create(harness.Pool(s.ns))
	stop := s.playProvider(func(ctx context.Context, claim *ipamv1.IPClaim) error {
		// It answers the claim only when it is being deleted, so that nobody accepts it before.
		address := addressFor(claim, "10.16.56.88")
		owners := address.OwnerReferences
		address.Finalizers, address.OwnerReferences = []string{hold}, nil
		if err := s.env.Client.Create(ctx, address); err != nil {
			return err
		}
		if err := s.env.Client.Delete(ctx, address); err != nil {
			return err
		}
		if err := s.env.Client.Get(ctx, client.ObjectKeyFromObject(address), address); err != nil {
			return err
		}
		before := address.DeepCopy()
		address.OwnerReferences = owners
		if err := s.env.Client.Patch(ctx, address, client.MergeFrom(before)); err != nil {
			return err
		}
		return s.tell(ctx, claim, address.Name)
	})
	defer stop()

	s.denyMachine(claimInDeletion(harness.OfMetal3), "cp-0", harness.WithPool(harness.DefaultPool))

	s.expectNoClaims()
	addresses := &ipamv1.IPAddressList{}
	if err := s.env.Client.List(s.Context(), addresses, client.InNamespace(s.ns)); err != nil {
		s.Fatal(err)
	}
	for i := range addresses.Items {
		s.dropFinalizer(&addresses.Items[i], hold)
	}
}

// A claim names its address before the address exists, and an address of that
// name may be left over from an earlier claim: neither is an answer yet.
func addressOfAnotherClaimIsNotTaken(s *scene) {
	s.create(harness.Pool(s.ns))
	other := s.foreignClaim(harness.OfMetal3, "somebody").(*ipamv1.IPClaim)
	claimed := make(chan *ipamv1.IPClaim, 1)
	stop := s.playProvider(func(_ context.Context, claim *ipamv1.IPClaim) error {
		if claim.Name == "cp-0-0" {
			claimed <- claim
		}
		return nil
	})
	defer stop()
	created := s.createLater(harness.Machine(s.ns, "cp-0", harness.WithPool(harness.DefaultPool)))
	claim := <-claimed
	waits := func(what string) {
		s.Helper()
		s.consistently(what+" is not taken for the answer", func(context.Context) error {
			select {
			case err := <-created:
				return errors.Join(errors.New("the create is done"), err)
			default:
				return nil
			}
		})
	}

	address, right := addressFor(claim, "10.16.56.88"), addressFor(claim, "10.16.56.89")
	address.GenerateName, address.Name = "", "answer"
	address.OwnerReferences = addressFor(other, "").OwnerReferences
	if err := s.tell(s.Context(), claim, address.Name); err != nil {
		s.Fatal(err)
	}
	waits("an address that does not exist")
	s.create(address)
	waits("an address of an earlier claim of the name")
	s.change(address, func() { address.OwnerReferences, address.Spec = right.OwnerReferences, right.Spec })

	if err := <-created; err != nil {
		s.Fatal(err)
	}
	if got := s.ip("cp-0"); got != "10.16.56.89" {
		s.Errorf("got %s, want 10.16.56.89, which answers the machine's own claim", got)
	}
}
