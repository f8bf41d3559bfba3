// Package web tests the page of kubectl static-ip in a real browser: `make test-web`. The
// cluster that it shows is in memory, see package cluster beside it.
package web
