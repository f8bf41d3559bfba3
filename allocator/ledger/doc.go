// Package ledger counts addresses and claims as they come and go, so that nobody has to
// list those of a namespace, of which there may be ten thousand, to count those of a pool.
//
// A ledger is fed by the events of informers, and knows no more than these, a moment
// later. So it is a hint: where it is wrong, somebody looks a second time, or the provider
// says no. What decides whether an address is given or freed is read live, as it would be
// without a ledger.
//
//   - An account is what the ledger knows of the addresses of one pool.
//   - An address is also in the account of the pool that another provider takes it to be
//     of: metal3 goes by the name of the pool alone, and serves the claims of the contract,
//     too (ipam.Twinned). There it is a twin.
//   - A claim waits until a machine has adopted it, and it is unstored as long as the
//     machine that it was made for does not exist.
package ledger
