package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

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

// Slot is the place of the address on its machine. Which of its device's addresses it is
// stands in the name of the claim, also in that of a claim that was made for another
// machine first.
func (b Binding) Slot() Slot {
	_, slot, _, _ := ParseClaimName(b.Claim)
	return Slot{Device: b.Device.Index, Nth: slot.Nth}
}

// Bindings is the content of BindingsAnnotation: the machine it was written
// for, so that a copied manifest is told apart, and what that machine holds.
type Bindings struct {
	Machine string `json:"machine"`
	// Kind says that it is a VSphereCluster, and its endpoint holds the only binding.
	Kind     HolderKind `json:"kind,omitempty"`
	Bindings []Binding  `json:"bindings"`
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
