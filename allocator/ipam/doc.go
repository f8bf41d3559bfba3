// Package ipam has the words of the allocation of addresses, and what is written
// on objects in them.
package ipam
