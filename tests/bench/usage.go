package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"capv-static-ip.dev/tests/harness"
)

// usage is for how long programs kept a processor busy. What is not known is 0.
type usage struct {
	apiServer, etcd, provider, manager, clients time.Duration
}

// used is what the programs that serve a site have used so far; there may be no manager.
func (s *site) used(manager *harness.Manager) usage {
	etcd, _ := s.plane.Etcd()
	u := usage{apiServer: spent(s.plane.APIServer()), etcd: spent(etcd), provider: spent(s.provider().Process), clients: ownTime()}
	if manager != nil {
		u.manager = spent(manager.Process)
	}
	return u
}

func spent(process *harness.Process) time.Duration {
	took, err := process.CPUTime()
	if err != nil {
		return 0
	}
	return took
}

func (u usage) since(before usage) usage {
	return usage{
		apiServer: u.apiServer - before.apiServer, etcd: u.etcd - before.etcd, provider: u.provider - before.provider,
		manager: u.manager - before.manager, clients: u.clients - before.clients,
	}
}

func (u *usage) add(other usage) {
	u.apiServer += other.apiServer
	u.etcd += other.etcd
	u.provider += other.provider
	u.manager += other.manager
	u.clients += other.clients
}

func (u usage) total() time.Duration {
	return u.apiServer + u.etcd + u.provider + u.manager + u.clients
}

// within says how busy this many processors were during a time, and with what.
func (u usage) within(wall time.Duration, processors int) string {
	if u.total() == 0 || wall == 0 {
		return ""
	}
	type share struct {
		of   string
		took time.Duration
	}
	shares := []share{
		{"API server", u.apiServer}, {"etcd", u.etcd}, {"provider", u.provider}, {"manager", u.manager}, {"clients", u.clients},
	}
	slices.SortStableFunc(shares, func(a, b share) int { return int(b.took - a.took) })
	var parts []string
	for _, s := range shares {
		if s.took > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f %%", s.of, 100*s.took.Seconds()/u.total().Seconds()))
		}
	}
	return fmt.Sprintf("%d cores %.0f %% busy: %s", processors, 100*u.total().Seconds()/wall.Seconds()/float64(processors), strings.Join(parts, ", "))
}

// cores are those that there are.
func cores() int { return runtime.NumCPU() }
