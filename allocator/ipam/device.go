package ipam

import "fmt"

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
