package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	capvv1 "sigs.k8s.io/cluster-api-provider-vsphere/api/govmomi/v1beta2"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
)

// Names by which the static IP adapter for CAPV is installed.
const (
	AdapterNamespace  = "capv-system"
	AdapterDeployment = "capv-static-ip-controller-manager"
	AdapterLease      = "controller-leader-election-capv-static-ip"

	adapterPrefix     = "capv-static-ip-"
	adapterAPIVersion = capvv1.GroupName + "/v1alpha4"
	// adapterRetry is how long the adapter waits for a claim to be bound.
	adapterRetry = 30 * time.Second
)

// Adapter plays the static IP adapter for CAPV, which itself needs an API of CAPV that newer
// versions do not serve. It chooses pools, and writes claims, machines and VSphereClusters, as
// that does: read at commit ba0b86d.
type Adapter struct {
	Client client.Client
	// Retry is how long it waits for a claim to be bound, 30 seconds if 0.
	Retry time.Duration
}

// Manifest is what the adapter's manifests render to, less what its Pod runs. The Namespace
// is CAPV's, and ClusterRole metrics-reader has the name of one of ours.
func (a *Adapter) Manifest() []client.Object {
	in := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: AdapterNamespace, Name: adapterPrefix + name}
	}
	global := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: adapterPrefix + name} }
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "default", Namespace: AdapterNamespace}}
	roleRef := func(kind, name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: adapterPrefix + name}
	}
	labels, replicas := map[string]string{"control-plane": "controller-manager"}, int32(1)
	service := &corev1.Service{ObjectMeta: in("controller-manager-metrics-service")}
	service.Spec.Selector, service.Spec.Ports = labels, []corev1.ServicePort{{Name: "https", Port: 8443}}
	deployment := &appsv1.Deployment{ObjectMeta: in("controller-manager")}
	deployment.Labels = labels
	deployment.Spec.Replicas = &replicas
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	deployment.Spec.Template.Labels = labels
	deployment.Spec.Template.Spec.Containers = []corev1.Container{{Name: "manager", Image: "example.com/capv-static-ip:latest"}}
	metrics := []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: AdapterNamespace, Labels: labels}},
		&rbacv1.Role{ObjectMeta: in("leader-election-role")},
		&rbacv1.ClusterRole{ObjectMeta: global("manager-role")},
		&rbacv1.ClusterRole{ObjectMeta: global("proxy-role")},
		&rbacv1.ClusterRole{ObjectMeta: global("metrics-reader"), Rules: metrics},
		&rbacv1.RoleBinding{ObjectMeta: in("leader-election-rolebinding"), Subjects: subjects, RoleRef: roleRef("Role", "leader-election-role")},
		&rbacv1.ClusterRoleBinding{ObjectMeta: global("manager-rolebinding"), Subjects: subjects, RoleRef: roleRef("ClusterRole", "manager-role")},
		&rbacv1.ClusterRoleBinding{ObjectMeta: global("proxy-rolebinding"), Subjects: subjects, RoleRef: roleRef("ClusterRole", "proxy-role")},
		service, deployment,
	}
}

// Install applies the adapter's manifests. The Namespace may be there.
func (a *Adapter) Install(ctx context.Context) error {
	for _, object := range a.Manifest() {
		err := a.Client.Create(ctx, object)
		if _, isNamespace := object.(*corev1.Namespace); isNamespace && apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("installing the adapter: %w", err)
		}
	}
	return nil
}

// Run plays the adapter's Pod: it works, and renews its lease, for as long as the Deployment
// wants one.
func (a *Adapter) Run(ctx context.Context) error {
	const tick = time.Second
	retry := a.Retry
	if retry == 0 {
		retry = adapterRetry
	}
	var worked time.Time
	for {
		wanted, err := a.isWanted(ctx)
		if err == nil && wanted {
			err = a.Renew(ctx, 2*tick)
		}
		if err == nil && wanted && time.Since(worked) >= retry {
			worked, err = time.Now(), a.Round(ctx)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tick):
		}
	}
}

// isWanted tells whether the Deployment wants a Pod.
func (a *Adapter) isWanted(ctx context.Context) (bool, error) {
	deployment := &appsv1.Deployment{}
	err := a.Client.Get(ctx, types.NamespacedName{Namespace: AdapterNamespace, Name: AdapterDeployment}, deployment)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && *deployment.Spec.Replicas > 0, err
}

// Renew takes or renews the lease. When it ends, nobody gives it back: it lapses.
func (a *Adapter) Renew(ctx context.Context, lasts time.Duration) error {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: AdapterNamespace, Name: AdapterLease}}
	holder, seconds, now := "adapter", int32(lasts/time.Second), metav1.NowMicro()
	fill := func() {
		lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now}
	}
	err := a.Client.Get(ctx, client.ObjectKeyFromObject(lease), lease)
	if fill(); apierrors.IsNotFound(err) {
		return a.Client.Create(ctx, lease)
	}
	if err != nil {
		return err
	}
	return a.Client.Update(ctx, lease)
}

// Round looks once at every machine and VSphereCluster. Of what lacks a claim it makes one; of
// what has one that is bound by then, it writes the address.
func (a *Adapter) Round(ctx context.Context) error {
	return errors.Join(a.ServeMachines(ctx), a.ServeClusters(ctx))
}

// ServeMachines is a round of machines alone.
func (a *Adapter) ServeMachines(ctx context.Context) error {
	machines := &capvv1.VSphereMachineList{}
	if err := a.Client.List(ctx, machines); err != nil {
		return err
	}
	var failed []error
	for i := range machines.Items {
		if err := a.serveMachine(ctx, &machines.Items[i]); err != nil {
			failed = append(failed, fmt.Errorf("serving machine %s as the adapter: %w", machines.Items[i].Name, err))
		}
	}
	return errors.Join(failed...)
}

// ServeClusters is a round of VSphereClusters alone.
func (a *Adapter) ServeClusters(ctx context.Context) error {
	clusters := &capvv1.VSphereClusterList{}
	if err := a.Client.List(ctx, clusters); err != nil {
		return err
	}
	var failed []error
	for i := range clusters.Items {
		if err := a.serveCluster(ctx, &clusters.Items[i]); err != nil {
			failed = append(failed, fmt.Errorf("serving VSphereCluster %s as the adapter: %w", clusters.Items[i].Name, err))
		}
	}
	return errors.Join(failed...)
}

// serveMachine gives all devices of a machine their addresses at once, of the pool that the
// labels of its template choose.
func (a *Adapter) serveMachine(ctx context.Context, m *capvv1.VSphereMachine) error {
	owned := slices.ContainsFunc(m.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.Kind == "Machine" })
	cluster := &clusterv1.Cluster{}
	if err := a.Client.Get(ctx, types.NamespacedName{Namespace: m.Namespace, Name: m.Labels[clusterv1.ClusterNameLabel]}, cluster); !owned || err != nil {
		return client.IgnoreNotFound(err)
	}
	before := m.DeepCopy()
	for i := range m.Spec.Network.Devices {
		device := &m.Spec.Network.Devices[i]
		if isSet(device.DHCP4) || isSet(device.DHCP6) || len(device.IPAddrs) > 0 {
			continue
		}
		template := &capvv1.VSphereMachineTemplate{}
		key := types.NamespacedName{Namespace: m.Namespace, Name: m.Annotations[clusterv1.TemplateClonedFromNameAnnotation]}
		if err := a.Client.Get(ctx, key, template); err != nil {
			return client.IgnoreNotFound(err)
		}
		pool, ip, err := a.give(ctx, fmt.Sprintf("%s-%d", m.Name, i), m, template.Labels, cluster)
		if err != nil || ip == nil {
			return err
		}
		device.IPAddrs = []string{fmt.Sprintf("%s/%d", ip.Spec.Address, ip.Spec.Prefix)}
		device.Gateway4 = string(*ip.Spec.Gateway)
		if len(pool.Spec.DNSServers) > 0 {
			device.Nameservers = nil
		}
		for _, server := range pool.Spec.DNSServers {
			device.Nameservers = append(device.Nameservers, string(server))
		}
		if domains := pool.Annotations["cluster.x-k8s.io/dns-search-domains"]; domains != "" {
			device.SearchDomains = strings.Split(domains, ",")
		}
	}
	return a.Client.Patch(ctx, m, client.MergeFrom(before))
}

// serveCluster gives a VSphereCluster its endpoint.
func (a *Adapter) serveCluster(ctx context.Context, c *capvv1.VSphereCluster) error {
	if c.Spec.ControlPlaneEndpoint.Host != "" {
		return nil
	}
	i := slices.IndexFunc(c.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.Kind == "Cluster" })
	if i < 0 {
		return nil
	}
	cluster := &clusterv1.Cluster{}
	if err := a.Client.Get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: c.OwnerReferences[i].Name}, cluster); err != nil {
		return client.IgnoreNotFound(err)
	}
	before := c.DeepCopy()
	_, ip, err := a.give(ctx, c.Name, c, c.Labels, cluster)
	if err != nil || ip == nil {
		return err
	}
	c.Spec.ControlPlaneEndpoint.Host = string(ip.Spec.Address)
	if c.Spec.ControlPlaneEndpoint.Port == 0 {
		// Manifests for the adapter have it.
		c.Spec.ControlPlaneEndpoint.Port = 6443
	}
	return a.Client.Patch(ctx, c, client.MergeFrom(before))
}

// give is the address of a claim, nil if there is no pool, or the claim is not bound yet. It
// makes the claim if there is none.
func (a *Adapter) give(ctx context.Context, name string, owner client.Object, labels map[string]string, cluster *clusterv1.Cluster) (*ipamv1.IPPool, *ipamv1.IPAddress, error) {
	pool, err := a.choose(ctx, labels, cluster)
	if err != nil || pool == nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	claim := &ipamv1.IPClaim{}
	switch err := a.Client.Get(ctx, types.NamespacedName{Namespace: pool.Namespace, Name: name}, claim); {
	case apierrors.IsNotFound(err):
		return nil, nil, a.claim(ctx, name, owner, pool)
	case err != nil:
		return nil, nil, err
	case claim.Status.Address == nil:
		return nil, nil, nil
	}
	ip := &ipamv1.IPAddress{}
	err = a.Client.Get(ctx, types.NamespacedName{Namespace: pool.Namespace, Name: claim.Status.Address.Name}, ip)
	return pool, ip, err
}

// choose is the pool of a name, or else any that carries both labels, be it full or not.
func (a *Adapter) choose(ctx context.Context, labels map[string]string, cluster *clusterv1.Cluster) (*ipamv1.IPPool, error) {
	if name := labels[PoolLabel]; name != "" {
		pool := &ipamv1.IPPool{}
		return pool, a.Client.Get(ctx, types.NamespacedName{Namespace: cluster.Namespace, Name: name}, pool)
	}
	match := client.MatchingLabels{}
	for _, key := range []string{"cluster.x-k8s.io/ip-pool-group", "cluster.x-k8s.io/network-name"} {
		if labels[key] != "" {
			match[key] = labels[key]
		}
	}
	namespace := cluster.Namespace
	if elsewhere := cluster.Annotations["cluster.x-k8s.io/ip-pool-namespace"]; elsewhere != "" {
		namespace = elsewhere
	}
	pools := &ipamv1.IPPoolList{}
	if err := a.Client.List(ctx, pools, client.InNamespace(namespace), match); err != nil || len(pools.Items) == 0 {
		return nil, err
	}
	return &pools.Items[0], nil
}

// claim makes a claim as the adapter does: without a label, a finalizer or a request, beside
// the pool, and of an owner in the adapter's own version of the API.
func (a *Adapter) claim(ctx context.Context, name string, owner client.Object, pool *ipamv1.IPPool) error {
	kind := "VSphereMachine"
	if _, ofCluster := owner.(*capvv1.VSphereCluster); ofCluster {
		kind = "VSphereCluster"
	}
	claim := &ipamv1.IPClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: pool.Namespace, Name: name,
		OwnerReferences: []metav1.OwnerReference{{APIVersion: adapterAPIVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID()}},
	}}
	claim.Spec.Pool = corev1.ObjectReference{
		APIVersion: ipamv1.GroupVersion.String(), Kind: "IPPool", Namespace: pool.Namespace, Name: pool.Name, UID: pool.UID,
	}
	if err := a.Client.Create(ctx, claim); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

func isSet(value *bool) bool { return value != nil && *value }
