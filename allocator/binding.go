package allocator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// MaxDevices bounds the devices of a machine that can hold an address, and so
	// its bindings. vSphere gives a VM ten network devices at most.
	MaxDevices = 64
	// MaxBindingsSize bounds the text of BindingsAnnotation, in bytes. It is
	// several times what MaxDevices bindings need.
	MaxBindingsSize = 64 << 10
)

// Device identifies one entry of a machine's spec.network.devices.
type Device struct {
	Index       int    `json:"index"`
	DeviceName  string `json:"deviceName,omitempty"`
	NetworkName string `json:"networkName,omitempty"`
}

// PoolReference names a pool, in the namespace of the machine where its kind has
// namespaces.
type PoolReference struct {
	APIGroup string `json:"apiGroup"`
	Kind     string `json:"kind"`
	Name     string `json:"name"`
}

// In is how a sentence names the pool: with its namespace, unless that is empty
// because the pool has none.
func (p PoolReference) In(namespace string) string {
	if namespace == "" {
		return fmt.Sprintf("%s %q", p.Kind, p.Name)
	}
	return fmt.Sprintf("%s %q in namespace %q", p.Kind, p.Name, namespace)
}

// String is the reference as users write it, KIND.GROUP/NAME.
func (p PoolReference) String() string {
	return p.Kind + "." + p.APIGroup + "/" + p.Name
}

// Binding is a claim and its address, held by one device of one machine.
//
// Gateway, Nameservers and SearchDomains are what the pool had to say about the
// address when it was bound. They are kept so that an update that drops the
// address can be mended as it was, without asking the provider.
type Binding struct {
	Device        Device        `json:"device"`
	Pool          PoolReference `json:"pool"`
	Claim         string        `json:"claim"`
	Address       netip.Prefix  `json:"address"`
	Gateway       netip.Addr    `json:"gateway,omitzero"`
	Nameservers   []string      `json:"nameservers,omitempty"`
	SearchDomains []string      `json:"searchDomains,omitempty"`
}

// Bindings is the content of BindingsAnnotation: the machine it was written
// for, so that a copied manifest is told apart, and what that machine holds.
type Bindings struct {
	Machine  string    `json:"machine"`
	Bindings []Binding `json:"bindings"`
}

// ParseBindings reads the value of BindingsAnnotation. Whoever may write machines
// may write it: it fails on a text that is larger than any of ours, or that holds
// what would be an error in each request that is made of it.
func ParseBindings(annotation string) (Bindings, error) {
	b, err := parseBindings(annotation)
	if err != nil {
		return Bindings{}, fmt.Errorf("reading annotation %s: %w", BindingsAnnotation, err)
	}
	return b, nil
}

func parseBindings(annotation string) (Bindings, error) {
	if len(annotation) > MaxBindingsSize {
		return Bindings{}, fmt.Errorf("it has more than %d bytes", MaxBindingsSize)
	}
	var b Bindings
	if err := json.Unmarshal([]byte(annotation), &b); err != nil {
		return Bindings{}, err
	}
	if len(b.Bindings) > MaxDevices {
		return Bindings{}, fmt.Errorf("it has more than %d bindings", MaxDevices)
	}
	for i, binding := range b.Bindings {
		if err := binding.validate(); err != nil {
			return Bindings{}, fmt.Errorf("binding %d: %w", i, err)
		}
	}
	return b, nil
}

// validate fails on a binding that cannot be one of ours.
func (b Binding) validate() error {
	isName := func(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }
	switch {
	case b.Device.Index < 0 || b.Device.Index >= MaxDevices:
		return fmt.Errorf("%d is not the index of a device", b.Device.Index)
	case !isName(b.Claim):
		return fmt.Errorf("%q is not the name of a claim", b.Claim)
	case !isName(b.Pool.Name) || !isName(b.Pool.APIGroup) || len(validation.IsDNS1035Label(strings.ToLower(b.Pool.Kind))) > 0:
		return fmt.Errorf("%q is not a pool", b.Pool)
	case !b.Address.IsValid():
		return errors.New("it has no address")
	}
	return nil
}

// Encode is the form in which BindingsAnnotation holds the bindings. It returns a
// Refusal if that would not be read.
func (b Bindings) Encode() (string, error) {
	text, err := json.Marshal(b)
	if err != nil {
		return "", fmt.Errorf("writing annotation %s: %w", BindingsAnnotation, err)
	}
	if len(text) > MaxBindingsSize {
		return "", Refuse(BindingsInvalid, "what the machine's addresses bring along takes more than %d KiB in annotation %s: "+
			"shorten the lists of search domains and name servers of its pools", MaxBindingsSize>>10, BindingsAnnotation)
	}
	return string(text), nil
}

// Machine is for whom addresses are claimed. At admission the object is not
// stored yet: a name is all there is.
type Machine struct {
	types.NamespacedName
	// Cluster is the name of the CAPI Cluster, empty if the machine names none.
	Cluster string
	// WatchFilter is the value of the label by which controllers share objects
	// out among themselves, empty if the machine has none.
	WatchFilter string
}

// Owner is for whom a machine is made, as a rule a MachineSet or a control plane.
type Owner struct {
	Kind, Name string
	// UID is empty if the machine has no owner.
	UID types.UID
	// User is who makes the machine for the owner. Anybody can write an owner into
	// a machine, so that owners are told apart by this as well.
	User string
}

// Want is one address that one device needs from one pool.
type Want struct {
	Device Device
	Pool   PoolReference
	// AskedBy says which metadata named the pool, for a denial that can be
	// acted upon, e.g. `label x of VSphereMachineTemplate "cp"`.
	AskedBy string
	// Host is the name for providers that register one with the address. It is
	// the device's own: where two addresses share a name, such a provider takes
	// them for one host and gives both the same.
	Host string
	// Claim is the name of the claim that is used, empty until one is.
	Claim string
	// late says that the claim was made, and not bound in time.
	late bool
}

// Request is what one admission request asks of the allocator.
type Request struct {
	// Stamp is put on every claim that the request uses. Its time is that of
	// this very try, so that a request delivered twice does not mistake the
	// other's claim for its own.
	Stamp   Stamp
	Machine Machine
	Owner   Owner
	// Wants are served in this order. Claim writes into each which claim it used.
	Wants []Want
}

// claimKey names the claim of a want.
func (r Request) claimKey(w Want) types.NamespacedName {
	name := w.Claim
	if name == "" {
		name = ClaimName(r.Machine.Name, w.Device.Index)
	}
	return types.NamespacedName{Namespace: r.Machine.Namespace, Name: name}
}

// countOf is the number of addresses wanted from one pool.
func (r Request) countOf(pool PoolReference) uint64 {
	var count uint64
	for _, want := range r.Wants {
		if want.Pool == pool {
			count++
		}
	}
	return count
}
