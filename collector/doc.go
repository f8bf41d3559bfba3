// Package collector serves, as metrics, what a replica has in its caches at the moment it
// is asked: how full pools are, who waits for them, and what became of bindings. It reads
// nothing from the API server, and watches nothing that nobody else watches.
package collector
