// Package metal3 is all that is known of the metal3 IP Address Manager: IPPool,
// IPClaim and IPAddress, and where it behaves in a way of its own.
package metal3
