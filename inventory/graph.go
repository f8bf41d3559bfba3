package inventory

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

// PageSize is how much to ask the API server for at once.
const PageSize = 500

// Graph is what there was when it was read. Its lists are not of one moment: what looks
// wrong in it may be right in the next.
type Graph struct {
	At time.Time
	// Pools are sorted by namespace, kind and name.
	Pools []*Pool
	// Machines and Clusters are the holders of addresses.
	Machines []*Machine
	Clusters []*Cluster
	VMs      []*capi.VSphereVM
	// Owners are those of which machines were refused.
	Owners []*Owner
	// Workloads make machines: MachineDeployments and KubeadmControlPlanes.
	Workloads []*Workload
	// Templates are the VSphereMachineTemplates.
	Templates map[types.NamespacedName]*unstructured.Unstructured
	// CAPIClusters are the Clusters, which are read for workloads and for findings, and
	// Webhooks is what calls the manager, for findings only.
	CAPIClusters []*capi.Cluster
	Webhooks     []Webhook
	// VCenters are what the vCenters have, if withVCenters says that they were asked.
	VCenters     []VCenter
	withVCenters bool
	// Unseen is what could not be listed.
	Unseen []Unseen

	// unread are kinds that were not asked for, by the names of Unseen.
	unread []string
	// asked is the namespace that was asked for, empty for all, and ofSome says that some
	// alone were read.
	asked  string
	ofSome bool
	// closer is what LookCloser has read, nil if nobody did.
	closer  *closer
	byKey   map[PoolKey]*Pool
	byClaim map[types.NamespacedName]*Machine
	vmOf    map[types.UID]*capi.VSphereVM
	makers  makers
	// frozen are the namespaces that are, by their names.
	frozen map[string]*metav1.PartialObjectMetadata
	// reuseAfter is for how long addresses cool down of pools that say nothing.
	reuseAfter time.Duration
}

// Pool is a pool with what exists of it.
type Pool struct {
	PoolKey
	// Object is nil for a pool that is only known by its claims and addresses.
	Object    client.Object
	Provider  ipam.Provider
	Claims    []ipam.Claim
	Addresses []Address
	// Partly says that it is used from namespaces that could not be looked at.
	Partly bool
}

// Address is an address of a pool that exists.
type Address struct {
	ipam.Address
	// IP is the zero Addr where the provider wrote something else.
	IP netip.Addr
}

// IsCooling tells whether it is kept from being handed out.
func (a Address) IsCooling() bool { return ipam.IsReleased(a.Object) }

// Machine is a VSphereMachine with what it holds.
type Machine struct {
	*capi.VSphereMachine
	Bindings []ipam.Binding
	// BindingsError says why its bindings cannot be read.
	BindingsError error
}

// Cluster is a VSphereCluster with what its endpoint holds.
type Cluster struct {
	*capi.VSphereCluster
	Bindings []ipam.Binding
}

// Unseen is a kind that could not be listed.
type Unseen struct {
	Kind string
	Err  error
}

// String is a sentence for people.
func (u Unseen) String() string {
	if apierrors.IsForbidden(u.Err) {
		return fmt.Sprintf("%s cannot be listed: forbidden; what is known of them is left out", u.Kind)
	}
	return fmt.Sprintf("%s cannot be listed: %v", u.Kind, u.Err)
}

// Source is where a Graph is read from.
type Source struct {
	// Client knows the kinds. Reader reads them: the client itself, or a cache.
	Client    client.Client
	Reader    client.Reader
	Providers ipam.Providers
	// Namespace is that to look at, empty for all.
	Namespace string
	// namespaces are those to look at once more, none for what Namespace says.
	namespaces []string
	// PageSize bounds one answer, see PageSize. A cache has no pages: it is 0.
	PageSize int64
	// WithWorkloads has templates, and what makes machines of them, read as well.
	WithWorkloads bool
	// ForFindings has Clusters read, and what calls the manager.
	ForFindings bool
	// VCenters reads what the vCenters have, nil if they are not to be asked.
	VCenters func(context.Context) []VCenter
	// findingsAlone says that nobody asks how full pools are.
	findingsAlone bool
	// ReuseAfter is for how long addresses cool down of pools that say nothing.
	ReuseAfter time.Duration
	// Now is the time of the Graph.
	Now func() time.Time
	// ParseBindings reads what a machine says that it holds; nil is ipam.ParseBindings. Who
	// reads all of it again and again may remember.
	ParseBindings func(text string) (ipam.Bindings, error)
}

// ReadWhole is Read for who may overlook nothing: what cannot be read is an error.
func (s Source) ReadWhole(ctx context.Context) (*Graph, error) {
	g, err := s.Read(ctx)
	if err != nil {
		return nil, err
	}
	if len(g.Unseen) > 0 {
		return nil, fmt.Errorf("not everything can be looked at: %s", g.Unseen[0])
	}
	return g, nil
}

// Read reads everything. It fails only if nothing could be read.
func (s Source) Read(ctx context.Context) (*Graph, error) {
	g := &Graph{
		At: s.Now(), byKey: map[PoolKey]*Pool{}, byClaim: map[types.NamespacedName]*Machine{}, vmOf: map[types.UID]*capi.VSphereVM{},
		Templates: map[types.NamespacedName]*unstructured.Unstructured{}, makers: newMakers(), reuseAfter: s.ReuseAfter,
		frozen: map[string]*metav1.PartialObjectMetadata{},
		asked:  s.Namespace, ofSome: s.Namespace != "" || len(s.namespaces) > 0,
	}
	if s.ParseBindings == nil {
		s.ParseBindings = ipam.ParseBindings
	}
	s.readVCenters(ctx, g)
	// Machines first: what they hold is in the lists after them, unless it was given back
	// meanwhile.
	s.machines(ctx, g)
	s.clusters(ctx, g)
	s.vms(ctx, g)
	s.pools(ctx, g)
	s.claims(ctx, g)
	s.owners(ctx, g)
	if s.WithWorkloads || s.ForFindings {
		s.capiClusters(ctx, g)
	} else {
		g.unread = append(g.unread, clusterKinds...)
	}
	if s.WithWorkloads {
		s.workloads(ctx, g)
	} else {
		g.unread = append(g.unread, workloadsNeeded...)
	}
	if len(g.Machines)+len(g.Pools) == 0 && len(g.Unseen) > 0 {
		return nil, fmt.Errorf("reading the cluster: %w", g.Unseen[0].Err)
	}
	if s.ForFindings {
		s.webhooks(ctx, g)
		s.frozenNamespaces(ctx, g)
	} else {
		g.unread = append(g.unread, webhookKinds...)
	}
	slices.SortFunc(g.Pools, func(a, b *Pool) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return g, nil
}

func (s Source) nameOf(kind client.Object) string {
	gvk, err := s.Client.GroupVersionKindFor(kind)
	if err != nil {
		_, name, _ := strings.Cut(fmt.Sprintf("%T", kind), ".")
		return name + "s"
	}
	if strings.HasSuffix(gvk.Kind, "s") {
		return gvk.Kind + "es"
	}
	return gvk.Kind + "s"
}

func (s Source) machines(ctx context.Context, g *Graph) {
	s.list(ctx, g, &capi.VSphereMachine{}, func(object client.Object) {
		m := &Machine{VSphereMachine: object.(*capi.VSphereMachine)}
		if text := m.Annotations[ipam.BindingsAnnotation]; text != "" {
			var bindings ipam.Bindings
			bindings, m.BindingsError = s.ParseBindings(text)
			// Those of another name came with a manifest that was copied.
			if bindings.Machine == m.Name && bindings.Kind == ipam.OfMachine {
				m.Bindings = bindings.Bindings
			}
		}
		for _, b := range m.Bindings {
			g.byClaim[types.NamespacedName{Namespace: m.Namespace, Name: b.Claim}] = m
		}
		g.addMachine(m)
	})
}

// addMachine has a machine known, and whose it is.
func (g *Graph) addMachine(m *Machine) {
	g.Machines = append(g.Machines, m)
	for label, kind := range map[string]string{
		clusterv1.MachineDeploymentNameLabel: capi.MachineDeploymentKind.Kind, clusterv1.MachineControlPlaneNameLabel: capi.KubeadmControlPlaneKind.Kind,
	} {
		if name := m.Labels[label]; name != "" {
			by := maker{kind, m.Namespace, name}
			g.makers.machines[by] = append(g.makers.machines[by], m)
		}
	}
	if hasLabel(m, clusterv1.MachineControlPlaneLabel) && m.Labels[clusterv1.MachineControlPlaneNameLabel] == "" {
		by := maker{capi.ClusterKind.Kind, m.Namespace, m.Labels[clusterv1.ClusterNameLabel]}
		g.makers.machines[by] = append(g.makers.machines[by], m)
	}
}

func (s Source) clusters(ctx context.Context, g *Graph) {
	s.list(ctx, g, &capi.VSphereCluster{}, func(object client.Object) {
		c := &Cluster{VSphereCluster: object.(*capi.VSphereCluster)}
		if bindings, err := ipam.ParseBindings(c.Annotations[ipam.BindingsAnnotation]); err == nil && bindings.Kind == ipam.OfCluster && bindings.Machine == c.Name {
			c.Bindings = bindings.Bindings
		}
		g.Clusters = append(g.Clusters, c)
	})
}

func (s Source) capiClusters(ctx context.Context, g *Graph) {
	s.list(ctx, g, &capi.Cluster{}, func(object client.Object) {
		cluster := object.(*capi.Cluster)
		g.CAPIClusters = append(g.CAPIClusters, cluster)
		g.makers.clusters[client.ObjectKeyFromObject(cluster)] = cluster
	})
}

func (s Source) vms(ctx context.Context, g *Graph) {
	s.list(ctx, g, &capi.VSphereVM{}, func(object client.Object) {
		vm := object.(*capi.VSphereVM)
		g.VMs = append(g.VMs, vm)
		g.vmOf[capi.OwnerMachine(vm).UID] = vm
	})
}

func (s Source) pools(ctx context.Context, g *Graph) {
	for _, provider := range s.Providers {
		for _, kind := range provider.PoolKinds() {
			gvk, err := s.Client.GroupVersionKindFor(kind)
			if err != nil {
				continue
			}
			s.list(ctx, g, kind, func(object client.Object) {
				pool := g.pool(provider, PoolKey{
					Namespace:     object.GetNamespace(),
					PoolReference: ipam.PoolReference{APIGroup: gvk.Group, Kind: gvk.Kind, Name: object.GetName()},
				})
				pool.Object = object
			})
		}
	}
}

// pool is the pool of this key, which is new if none is known.
func (g *Graph) pool(provider ipam.Provider, key PoolKey) *Pool {
	if known := g.byKey[key]; known != nil {
		return known
	}
	pool := &Pool{PoolKey: key, Provider: provider}
	g.byKey[key] = pool
	g.Pools = append(g.Pools, pool)
	return pool
}

// PoolOf is the pool that an object in a namespace names: of all namespaces, if there is
// one, or of its own; nil if nothing is known of it.
func (g *Graph) PoolOf(namespace string, reference ipam.PoolReference) *Pool {
	return cmp.Or(g.byKey[PoolKey{PoolReference: reference}], g.byKey[PoolKey{Namespace: namespace, PoolReference: reference}])
}

// named is PoolOf, which becomes known if it was not.
func (g *Graph) named(provider ipam.Provider, namespace string, reference ipam.PoolReference) *Pool {
	if known := g.PoolOf(namespace, reference); known != nil {
		return known
	}
	return g.pool(provider, PoolKey{Namespace: namespace, PoolReference: reference})
}

func (s Source) claims(ctx context.Context, g *Graph) {
	for _, provider := range s.Providers {
		claim, address := provider.Kinds()
		s.listOfPools(ctx, g, provider, claim, func(object client.Object) {
			read := provider.ReadClaim(object)
			pool := s.poolRead(g, object, read.Pool)
			if pool == nil {
				return
			}
			pool.Claims = append(pool.Claims, read)
			if read.Address != "" && ipam.RequesterOf(read) != "" && g.byClaim[client.ObjectKeyFromObject(read)] == nil {
				g.makers.kept = append(g.makers.kept, keptClaim{read, pool})
			}
		})
		s.listOfPools(ctx, g, provider, address, func(object client.Object) {
			read := provider.ReadAddress(object)
			if pool := s.poolRead(g, object, read.Pool); pool != nil {
				pool.Addresses = append(pool.Addresses, Address{Address: read, IP: capi.ParseAddress(read.IP)})
			}
		})
	}
}

// listOfPools is list, from all namespaces if the provider has a pool that all of them use:
// how full that is nobody can tell by one of them. Findings are of what was asked for, see
// asAsked.
func (s Source) listOfPools(ctx context.Context, g *Graph, provider ipam.Provider, kind client.Object, each func(client.Object)) {
	isShared := func(p *Pool) bool { return p.Namespace == "" && p.Provider.Name() == provider.Name() }
	if s.Namespace == "" || s.findingsAlone || !slices.ContainsFunc(g.Pools, isShared) {
		s.list(ctx, g, kind, each)
		return
	}
	everywhere, unseen := s, len(g.Unseen)
	everywhere.Namespace = ""
	everywhere.list(ctx, g, kind, each)
	if len(g.Unseen) == unseen {
		return
	}
	g.Unseen[unseen].Kind += " of other namespaces"
	for _, p := range g.Pools {
		p.Partly = p.Partly || isShared(p)
	}
	s.list(ctx, g, kind, each)
}

// poolRead is the pool that a claim or an address is of, nil if nobody asks for it: one of
// another namespace.
func (s Source) poolRead(g *Graph, object client.Object, reference ipam.PoolReference) *Pool {
	if s.Namespace != "" && object.GetNamespace() != s.Namespace && g.byKey[PoolKey{PoolReference: reference}] == nil {
		return nil
	}
	return g.named(s.Providers.For(reference), object.GetNamespace(), reference)
}

// Pool is the pool of this key, nil if there is none.
func (g *Graph) Pool(key PoolKey) *Pool { return g.byKey[key] }

// Machine is the machine of this name, nil if there is none.
func (g *Graph) Machine(key types.NamespacedName) *Machine {
	for _, m := range g.Machines {
		if m.Namespace == key.Namespace && m.Name == key.Name {
			return m
		}
	}
	return nil
}
