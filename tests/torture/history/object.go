package history

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kinds of objects, as a history names them. The two kinds of claims, and of addresses,
// differ in their API only.
const (
	Machine           = "VSphereMachine"
	VirtualMachine    = "VSphereVM"
	MachineDeployment = "MachineDeployment"
	Metal3Claim       = "IPClaim"
	Metal3Address     = "ipam.metal3.io/IPAddress"
	Metal3Pool        = "IPPool"
	ContractClaim     = "IPAddressClaim"
	ContractAddress   = "ipam.cluster.x-k8s.io/IPAddress"
	InClusterPool     = "InClusterIPPool"
	Cluster           = "Cluster"
	ControlPlane      = "VSphereCluster"
)

// Marks of the product, which are part of its contract: docs/marks.md has them.
const (
	releaseFinalizer = "capv-static-ip.dev/release"
	inUseFinalizer   = "capv-static-ip.dev/in-use"
	ownLabel         = "capv-static-ip.dev/machine"
	machineNameMark  = "capv-static-ip.dev/machine-name"
	clusterNameMark  = "capv-static-ip.dev/vspherecluster-name"
	machineUIDMark   = "capv-static-ip.dev/machine-uid"
	setAsideMark     = "capv-static-ip.dev/set-aside"
	releasedAtMark   = "capv-static-ip.dev/released-at"
	reuseAfterMark   = "capv-static-ip.dev/reuse-after"
	migrationMark    = "capv-static-ip.dev/migration-with"
)

// Marks of the workers, on what they make.
const (
	// ByHandAnnotation is on a machine that was made with addresses that it brought along.
	ByHandAnnotation = "torture.capv-static-ip.dev/by-hand"
	// PoolsAnnotation on machines and on MachineDeployments has the pools that are asked for
	// each machine, separated by commas, as in "IPPool/workers"; on a VSphereCluster and its
	// Cluster the one that the endpoint is of.
	PoolsAnnotation = "torture.capv-static-ip.dev/pools"
)

// Object is a state of an object that was stored, without what does not matter here.
type Object struct {
	// Revision is that of etcd, which orders all changes.
	Revision  int64  `json:"revision"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Gone says that the object is no more. All else is as it was last.
	Gone       bool       `json:"gone,omitempty"`
	DeletedAt  *time.Time `json:"deletedAt,omitempty"`
	Finalizers []string   `json:"finalizers,omitempty"`

	// Addresses are those on the devices of a machine or of a VSphereVM, that of an address
	// object, or the endpoint of a VSphereCluster or a Cluster that has it of a pool, without
	// the prefix length.
	Addresses []string `json:"addresses,omitempty"`
	// Owner is the UID of the VSphereMachine that owns a VSphereVM.
	Owner string `json:"owner,omitempty"`
	// Owned says that a Machine owns a machine, Of which Cluster it is of, and Deployment
	// which one made it.
	Owned      bool   `json:"owned,omitempty"`
	Of         string `json:"of,omitempty"`
	Deployment string `json:"deployment,omitempty"`
	// Asks are the pools that a machine, or each of a deployment, asks for an address of.
	Asks []string `json:"asks,omitempty"`
	// ByHand says that a machine brought its addresses along, and Unnamed that it was made
	// without a name.
	ByHand  bool `json:"byHand,omitempty"`
	Unnamed bool `json:"unnamed,omitempty"`

	// Pool is that of a claim or an address, as in "IPPool/workers".
	Pool string `json:"pool,omitempty"`
	// Claim is the one that an address answers, and Address the object that a claim names.
	Claim   string `json:"claim,omitempty"`
	Address string `json:"address,omitempty"`
	// Machine is the one that a claim or an address says it is of, MachineUID says that an
	// address is one that has lived, and Endpoint is the VSphereCluster in place of a machine.
	Machine    string `json:"machine,omitempty"`
	MachineUID string `json:"machineUID,omitempty"`
	Endpoint   string `json:"endpoint,omitempty"`
	// Cools says that a claim or an address is kept for a while after its machine, and
	// CoolDown for how long its pool wants that.
	Cools    bool          `json:"cools,omitempty"`
	CoolDown time.Duration `json:"coolDown,omitempty"`
	// Ours says that a claim carries the product's label, and SetAside that it keeps an
	// address out of its pool.
	Ours     bool `json:"ours,omitempty"`
	SetAside bool `json:"setAside,omitempty"`

	// Size is how many addresses a pool has, and Migrating says that addresses are moved from it
	// or to it: others than those in use may be reserved.
	Size      int  `json:"size,omitempty"`
	Migrating bool `json:"migrating,omitempty"`
	// Replicas are how many machines a deployment wants.
	Replicas int `json:"replicas,omitempty"`
	// Paused is said of a Cluster.
	Paused bool `json:"paused,omitempty"`
}

// isDone tells of a machine that is being deleted, and kept by the product alone, or by the
// garbage collector, which waits for what the machine owns: it has no VM, and what it had is
// being given back.
//
// A Cluster needs its endpoint no more as soon as it is being deleted, and its VSphereCluster
// keeps that for both.
func (o *Object) isDone() bool {
	if o.Kind == Cluster {
		return o.DeletedAt != nil
	}
	return o.DeletedAt != nil && !slices.ContainsFunc(o.Finalizers, func(f string) bool {
		return f != releaseFinalizer && f != metav1.FinalizerDeleteDependents && f != metav1.FinalizerOrphanDependents
	})
}

func (o *Object) isClaim() bool   { return o.Kind == Metal3Claim || o.Kind == ContractClaim }
func (o *Object) isAddress() bool { return o.Kind == Metal3Address || o.Kind == ContractAddress }

func (o *Object) isEndpoint() bool { return o.Kind == ControlPlane || o.Kind == Cluster }

func (o *Object) String() string { return o.Kind + " " + o.Namespace + "/" + o.Name }

// kinds are those that are kept, by where etcd has them.
var kinds = map[string]string{
	"infrastructure.cluster.x-k8s.io/vspheremachines": Machine,
	"infrastructure.cluster.x-k8s.io/vspherevms":      VirtualMachine,
	"infrastructure.cluster.x-k8s.io/vsphereclusters": ControlPlane,
	"cluster.x-k8s.io/machinedeployments":             MachineDeployment,
	"cluster.x-k8s.io/clusters":                       Cluster,
	"ipam.metal3.io/ipclaims":                         Metal3Claim,
	"ipam.metal3.io/ipaddresses":                      Metal3Address,
	"ipam.metal3.io/ippools":                          Metal3Pool,
	"ipam.cluster.x-k8s.io/ipaddressclaims":           ContractClaim,
	"ipam.cluster.x-k8s.io/ipaddresses":               ContractAddress,
	"ipam.cluster.x-k8s.io/inclusterippools":          InClusterPool,
}

// Prefixes are where in etcd all that is kept is.
func Prefixes() []string {
	return []string{
		"/registry/infrastructure.cluster.x-k8s.io/",
		"/registry/cluster.x-k8s.io/",
		"/registry/ipam.metal3.io/",
		"/registry/ipam.cluster.x-k8s.io/",
	}
}

// stored is what is read of an object, whatever its kind. What one kind does not have is
// empty; fields of the same path have the same meaning in all that have them.
type stored struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Network struct {
			Devices []struct {
				IPAddrs []string `json:"ipAddrs"`
			} `json:"devices"`
		} `json:"network"`
		Pool    named  `json:"pool"`
		PoolRef named  `json:"poolRef"`
		Address string `json:"address"`
		Claim   named  `json:"claim"`
		// ClaimRef is that of the contract's addresses.
		ClaimRef  named    `json:"claimRef"`
		Addresses []string `json:"addresses"`
		Pools     []struct {
			Start string `json:"start"`
			End   string `json:"end"`
		} `json:"pools"`
		Replicas             int  `json:"replicas"`
		Paused               bool `json:"paused"`
		ControlPlaneEndpoint struct {
			Host string `json:"host"`
		} `json:"controlPlaneEndpoint"`
	} `json:"spec"`
	Status struct {
		Address    *named `json:"address"`
		AddressRef named  `json:"addressRef"`
	} `json:"status"`
}

type named struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// readStored reads an object. Only claims have their status read: that of others has
// something else under the same names.
func readStored(content []byte, kind string) (*stored, error) {
	if kind == Metal3Claim || kind == ContractClaim {
		s := &stored{}
		return s, json.Unmarshal(content, s)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(content, &parts); err != nil {
		return nil, err
	}
	delete(parts, "status")
	without, err := json.Marshal(parts)
	if err != nil {
		return nil, err
	}
	s := &stored{}
	return s, json.Unmarshal(without, s)
}

// Reduce reads an object as etcd has it. It is nil for a kind that is not kept.
func Reduce(key string, content []byte, revision int64) (*Object, error) {
	kind, ok := kindOf(key)
	if !ok {
		return nil, nil
	}
	s, err := readStored(content, kind)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	object := &Object{
		Revision: revision, Kind: kind, Namespace: s.Namespace, Name: s.Name, UID: string(s.UID),
		Finalizers: s.Finalizers, Machine: s.Annotations[machineNameMark], MachineUID: s.Annotations[machineUIDMark],
		Endpoint: s.Annotations[clusterNameMark],
	}
	_, object.Cools = s.Annotations[releasedAtMark]
	_, object.Migrating = s.Annotations[migrationMark]
	if after, err := time.ParseDuration(s.Annotations[reuseAfterMark]); err == nil {
		object.CoolDown = after
	}
	if s.DeletionTimestamp != nil {
		object.DeletedAt = &s.DeletionTimestamp.Time
	}
	s.fill(object)
	return object, nil
}

// kindOf is the kind of what a key of etcd is for.
func kindOf(key string) (string, bool) {
	parts := strings.Split(strings.TrimPrefix(key, "/registry/"), "/")
	if len(parts) < 2 {
		return "", false
	}
	kind, ok := kinds[parts[0]+"/"+parts[1]]
	return kind, ok
}

func (s *stored) fill(o *Object) {
	switch o.Kind {
	case Machine, VirtualMachine:
		s.fillMachine(o)
	case MachineDeployment:
		o.Replicas, o.Asks = s.Spec.Replicas, list(s.Annotations[PoolsAnnotation])
	case Metal3Claim:
		o.Pool = Metal3Pool + "/" + s.Spec.Pool.Name
		if s.Status.Address != nil {
			o.Address = s.Status.Address.Name
		}
		s.fillClaim(o)
	case ContractClaim:
		o.Pool, o.Address = s.Spec.PoolRef.Kind+"/"+s.Spec.PoolRef.Name, s.Status.AddressRef.Name
		s.fillClaim(o)
	case Metal3Address:
		o.Pool, o.Claim, o.Addresses = Metal3Pool+"/"+s.Spec.Pool.Name, s.Spec.Claim.Name, []string{plain(s.Spec.Address)}
	case ContractAddress:
		o.Pool, o.Claim, o.Addresses = s.Spec.PoolRef.Kind+"/"+s.Spec.PoolRef.Name, s.Spec.ClaimRef.Name, []string{plain(s.Spec.Address)}
	case Metal3Pool:
		for _, part := range s.Spec.Pools {
			o.Size += count(part.Start, part.End)
		}
	case InClusterPool:
		for _, part := range s.Spec.Addresses {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			o.Size += count(first, last)
		}
	case Cluster, ControlPlane:
		o.Paused = s.Spec.Paused
		s.fillEndpoint(o)
	}
}

// fillEndpoint reads the endpoint of a control plane that has it of a pool.
func (s *stored) fillEndpoint(o *Object) {
	o.Asks = list(s.Annotations[PoolsAnnotation])
	if host := s.Spec.ControlPlaneEndpoint.Host; host != "" && len(o.Asks) > 0 {
		o.Addresses = []string{plain(host)}
	}
}

// plain is an address in the one form that all have, without a prefix length.
func plain(text string) string {
	text, _, _ = strings.Cut(text, "/")
	if address, err := netip.ParseAddr(text); err == nil {
		return address.String()
	}
	return text
}

func (s *stored) fillMachine(o *Object) {
	for _, device := range s.Spec.Network.Devices {
		for _, text := range device.IPAddrs {
			o.Addresses = append(o.Addresses, plain(text))
		}
	}
	o.Asks, o.Deployment = list(s.Annotations[PoolsAnnotation]), s.Labels["cluster.x-k8s.io/deployment-name"]
	_, o.ByHand = s.Annotations[ByHandAnnotation]
	o.Of, o.Unnamed = s.Labels["cluster.x-k8s.io/cluster-name"], s.GenerateName != ""
	for _, owner := range s.OwnerReferences {
		switch owner.Kind {
		case Machine:
			o.Owner = string(owner.UID)
		case "Machine":
			o.Owned = true
		}
	}
}

func (s *stored) fillClaim(o *Object) {
	_, o.Ours = s.Labels[ownLabel]
	_, o.SetAside = s.Labels[setAsideMark]
}

func list(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// count is how many addresses there are from the first to the last.
func count(first, last string) int {
	from, err := netip.ParseAddr(first)
	if err != nil {
		return 0
	}
	to, err := netip.ParseAddr(last)
	if err != nil {
		return 0
	}
	n := 0
	for ; from.Compare(to) <= 0; from = from.Next() {
		n++
	}
	return n
}
