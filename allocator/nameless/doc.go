// Package nameless is the controller that lets go of addresses which have our finalizer and do not
// say for whom. We write both at once, and take both off at once. But the in-cluster provider
// writes the finalizers of an address as its cache had them when it takes its own one off: ours
// is put back where we have just taken it off, and no claim leads to such an address any more. It
// would stay for ever, and keep its pool and its namespace from being deleted.
//
// See docs/upstream.md for where the provider does that.
package nameless
