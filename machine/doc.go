// Package machine is what a VSphereMachine asks for and carries: which of its
// devices wait for an address, which pools its metadata names for them, how
// addresses are written into it and kept there. It reads nothing but the values
// that it is given.
package machine
