package migration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

// perform does a task but for the switch, and reads again what may have changed by it.
func (m *Migration) perform(ctx context.Context, o *observed, d decision) error {
	if d.givesBack() {
		if err := m.confirm(ctx, o); err != nil {
			return err
		}
	}
	if err := m.guard(ctx, o, d); err != nil {
		return err
	}
	switch d.task {
	case announce:
		return m.announce(ctx, o, o.back)
	case finish:
		return m.patch(ctx, o.machine, func() { delete(o.machine.Annotations, ipam.MigratingAnnotation) }, func() { o.announced = false })
	}
	if err := m.change(ctx, o.machine, &o.journeys[d.journey], d.task); err != nil {
		return fmt.Errorf("%s: %w", d.task, err)
	}
	if d.isOfOld() {
		return m.lookAtOld(ctx, o, d.journey)
	}
	return m.lookAtNew(ctx, o, d.journey)
}

// change writes one of the claims or addresses of a move.
func (m *Migration) change(ctx context.Context, machine *capi.VSphereMachine, j *journey, s task) error {
	switch s {
	case place:
		return ignoreExists(m.Client.Create(ctx, m.newAddress(machine, j)))
	case claim:
		object, err := m.newClaim(ctx, machine, j)
		if err != nil {
			return err
		}
		return ignoreExists(m.Client.Create(ctx, object))
	case protect:
		return m.protect(ctx, machine, j.new.address.Object, j)
	case unprotect:
		return m.unprotect(ctx, j.old.address.Object)
	case giveUp:
		return m.unprotect(ctx, j.new.address.Object)
	case release:
		return m.deleteClaim(ctx, j.old.claim.Object)
	case withdraw, discard:
		return m.deleteClaim(ctx, j.new.claim.Object)
	case displace:
		return m.drop(ctx, j.To.Pool, j.new)
	case drop:
		return m.drop(ctx, j.From.Pool, j.old)
	}
	return fmt.Errorf("%q is no task", s)
}

// patch changes an object against the version that was read, and then what is known of it.
func (m *Migration) patch(ctx context.Context, object client.Object, change, then func()) error {
	before := object.DeepCopyObject().(client.Object)
	change()
	if err := kube.PatchAsRead(ctx, m.Client, object, before); err != nil {
		return fmt.Errorf("writing %s: %w", klog.KObj(object), err)
	}
	then()
	return nil
}

// announce says on the machine what is moved, so that the manager leaves it alone.
func (m *Migration) announce(ctx context.Context, o *observed, back bool) error {
	migration := ipam.Migration{Machine: o.machine.Name, Back: back}
	for _, j := range o.journeys {
		migration.Moves = append(migration.Moves, j.Move)
	}
	text, err := migration.Encode()
	if err != nil {
		return err
	}
	return m.patch(ctx, o.machine,
		func() { metav1.SetMetaDataAnnotation(&o.machine.ObjectMeta, ipam.MigratingAnnotation, text) },
		func() { o.announced, o.back = true, back })
}

// switchTo makes the new claim the current one, if its address is nobody else's. The provider
// has bound it, and so knows of it: whom it has given the address before that is among the
// addresses, which were read since. Machine and claim may have been read long before that.
func (m *Migration) switchTo(ctx context.Context, o *observed, i int, addresses []ipam.Address) error {
	if err := m.lookAtNew(ctx, o, i); err != nil {
		return err
	}
	if err := m.confirm(ctx, o); err != nil {
		return err
	}
	j := o.journeys[i]
	isNew := func(a ipam.Address) bool { return a.GetUID() == j.new.address.GetUID() }
	if !j.new.isMachines(j.Move) || !slices.ContainsFunc(addresses, isNew) {
		return conflict(o.machine, "its new claim has changed meanwhile")
	}
	for _, other := range addresses {
		if capi.ParseAddress(other.IP) == j.Address && !isNew(other) {
			return &takenError{fmt.Sprintf("%s has given %s to claim %s/%s as well: release that, and run this again",
				j.To.Pool, j.Address, other.GetNamespace(), other.Claim)}
		}
	}
	if err := m.rebind(ctx, o, j.From, j.To); err != nil {
		return err
	}
	return m.lookAtOld(ctx, o, i)
}

// takenError says that an address is somebody else's in the new pool.
type takenError struct{ text string }

// Error implements error.
func (e *takenError) Error() string { return e.text }

// rebind has the machine's bindings name another claim.
func (m *Migration) rebind(ctx context.Context, o *observed, from, to ipam.ClaimReference) error {
	bindings, err := ipam.ParseBindings(o.machine.Annotations[ipam.BindingsAnnotation])
	if err != nil {
		return err
	}
	for i, b := range bindings.Bindings {
		if b.ClaimReference() == from {
			bindings.Bindings[i].Pool, bindings.Bindings[i].Claim = to.Pool, to.Claim
		}
	}
	text, err := bindings.Encode()
	if err != nil {
		return err
	}
	return m.patch(ctx, o.machine,
		func() { metav1.SetMetaDataAnnotation(&o.machine.ObjectMeta, ipam.BindingsAnnotation, text) },
		func() { o.bindings = bindings.Bindings })
}

// newAddress is the address that is there before its claim, marked for the machine.
func (m *Migration) newAddress(machine *capi.VSphereMachine, j *journey) client.Object {
	requester := m.Source.Providers.For(j.To.Pool).(ipam.Requester) //nolint:forcetypeassert // places says so
	binding := bindingOf(j.Move, j.To)
	bindings, _ := ipam.ParseBindings(machine.Annotations[ipam.BindingsAnnotation])
	for _, b := range bindings.Bindings {
		if b.ClaimReference() == j.From {
			binding.Address, binding.Gateway = b.Address, b.Gateway
		}
	}
	address := requester.Requested(machine.Namespace, binding)
	mark(address, machine, j)
	if cluster := machine.Labels[clusterv1.ClusterNameLabel]; cluster != "" {
		kube.SetLabel(address, clusterv1.ClusterNameLabel, cluster)
	}
	return address
}

// mark has an address be that of the machine, and protected.
func mark(address client.Object, machine *capi.VSphereMachine, j *journey) {
	ipam.Protect(address, machine.Name)
	kube.SetAnnotation(address, ipam.MachineUIDAnnotation, string(machine.UID))
	if j.old.address != nil {
		if network, ok := j.old.address.GetAnnotations()[ipam.NetworkAnnotation]; ok {
			kube.SetAnnotation(address, ipam.NetworkAnnotation, network)
		}
	}
}

func (m *Migration) protect(ctx context.Context, machine *capi.VSphereMachine, address client.Object, j *journey) error {
	return m.patch(ctx, address, func() { mark(address, machine, j) }, func() {})
}

func (m *Migration) unprotect(ctx context.Context, address client.Object) error {
	return m.patch(ctx, address, func() { ipam.Unprotect(address) }, func() {})
}

// newClaim is a claim in the new pool as the manager has one that it has adopted.
func (m *Migration) newClaim(ctx context.Context, machine *capi.VSphereMachine, j *journey) (client.Object, error) {
	provider := m.Source.Providers.For(j.To.Pool)
	pool, err := provider.Read(ctx, m.Client, m.Client, machine.Namespace, j.To.Pool)
	if err != nil {
		return nil, err
	}
	identity := ipam.Machine{
		NamespacedName: client.ObjectKeyFromObject(machine),
		Cluster:        machine.Labels[clusterv1.ClusterNameLabel], WatchFilter: machine.Labels[clusterv1.WatchLabel],
	}
	object := provider.NewClaim(ipam.ClaimSpec{Name: j.To.Claim, Machine: identity, Pool: j.To.Pool, PoolObject: pool})
	ipam.Mark(object, identity)
	ipam.Use(object, ipam.Stamp{Time: time.Now()})
	if j.old.claim != nil {
		if slot := j.old.claim.GetAnnotations()[ipam.DeviceAnnotation]; slot != "" {
			kube.SetAnnotation(object, ipam.DeviceAnnotation, slot)
		}
	}
	capi.Own(object, m.Client.Scheme(), machine.Name, machine.UID)
	if requester, ok := provider.(ipam.Requester); ok {
		requester.Request(object, j.Address)
	}
	if provider.Traits().KeepsFinalizedClaims {
		controllerutil.AddFinalizer(object, ipam.InUseFinalizer)
	}
	return object, nil
}

// deleteClaim deletes a claim. Our finalizer goes first: with it, the provider would keep the
// address.
func (m *Migration) deleteClaim(ctx context.Context, object client.Object) error {
	if ipam.IsProtected(object) {
		if err := m.patch(ctx, object, func() { controllerutil.RemoveFinalizer(object, ipam.InUseFinalizer) }, func() {}); err != nil {
			return err
		}
	}
	if !object.GetDeletionTimestamp().IsZero() {
		return nil
	}
	return kube.DeleteAsRead(ctx, m.Client, object)
}

// drop deletes an address and finishes the deletion of its claim, as their provider does. That
// one rests, or has never heard of the address.
func (m *Migration) drop(ctx context.Context, pool ipam.PoolReference, s side) error {
	provider := m.Source.Providers.For(pool)
	if s.address != nil {
		object := s.address.Object
		if !provider.HasOnlyOwnFinalizers(object) {
			return fmt.Errorf("address %s has a finalizer of somebody else's: %v", klog.KObj(object), object.GetFinalizers())
		}
		if len(object.GetFinalizers()) > 0 {
			if err := m.patch(ctx, object, func() { object.SetFinalizers(nil) }, func() {}); err != nil {
				return client.IgnoreNotFound(err)
			}
		}
		if !object.GetDeletionTimestamp().IsZero() {
			return nil
		}
		return kube.DeleteAsRead(ctx, m.Client, object)
	}
	// It would log that the pool does not exist, which is not so here, between what is reported.
	return ipam.DropFinalizers(klog.NewContext(ctx, logr.Discard()), m.Client, provider, s.claim.Object)
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// prefixOf is an address as a prefix that holds nothing else.
func prefixOf(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }
