// Package migration moves the addresses of machines from one pool to another, without a
// change of any address, as docs/migrate.md says. What is to be done next about a machine is
// decided from what is stored alone, so that it may be stopped and begun again at any point.
package migration
