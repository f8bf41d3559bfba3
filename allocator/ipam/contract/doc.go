// Package contract is all that is known of pools that honour the IPAM contract of
// Cluster API, the in-cluster provider's among them: IPAddressClaim and IPAddress.
package contract
