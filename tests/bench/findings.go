package main

import (
	"fmt"
	"time"

	"capv-static-ip.dev/tests/bench/measure"
)

// Goals that are the same in all ways.
const (
	dhcpGoal = 1.05
	// growthGoal and ownGoal are how many times what it is with few bindings a create, and our
	// own share of one, may take with many.
	growthGoal, ownGoal = 1.3, 1.1
	// memoryGoal is in MiB, with as many machines.
	memoryGoal, memoryMachines = 150, 10000
)

// findings are all that was measured, in few numbers, each with its goal.
func (r *results) findings() []measure.Finding {
	var all []measure.Finding
	for _, each := range []func(*result) []measure.Finding{
		(*result).ofOneClient, (*result).ofBursts, (*result).ofThrottled, (*result).ofGrowth, (*result).ofFailover, (*result).ofWrites,
	} {
		for _, way := range r.ways {
			all = append(all, each(way)...)
		}
	}
	all = append(all, r.ofDHCP()...)
	return append(all, r.ofOwn()...)
}

func (r *result) finding(what string, measured float64, goal measure.Goal, of string) measure.Finding {
	return measure.Finding{What: what, Way: r.name, Measured: measured, Goal: goal, Of: of}
}

func (r *result) ofOneClient() []measure.Finding {
	if len(r.injected) == 0 {
		return nil
	}
	plain, claim, injected := r.plain.Median(), r.claim.Median(), r.injected.Median()
	of := fmt.Sprintf("%s; a plain create is %s, a bare claim %s", measure.MS(injected), measure.MS(plain), measure.MS(claim))
	found := []measure.Finding{
		r.finding("injection / plain create, p50, 1 client", measure.Ratio(injected, plain), measure.Goal{Limit: r.goals.plain}, of),
		r.finding("injection / (plain create + bare claim), p50, 1 client", measure.Ratio(injected, plain+claim), measure.Goal{Limit: r.goals.parts}, of),
	}
	if len(r.two) > 0 {
		found = append(found,
			r.finding("two addresses of a device / one, p50", measure.Ratio(r.two.Median(), injected), measure.Goal{}, measure.MS(r.two.Median())),
			r.finding("second choice / only choice, p50", measure.Ratio(r.chosen.Median(), injected), measure.Goal{}, measure.MS(r.chosen.Median())))
	}
	return found
}

func (r *result) ofBursts() []measure.Finding {
	var found []measure.Finding
	for _, b := range r.bursts {
		found = append(found, r.rate(fmt.Sprintf("machines / bare claims, each second, %d by %d clients", b.size, measure.Clients), b, r.goals.rate))
	}
	return found
}

func (r *result) ofThrottled() []measure.Finding {
	var found []measure.Finding
	for _, b := range r.throttled {
		found = append(found, r.rate(fmt.Sprintf("the same, %d, metal3 with its own limit", b.size), b, r.goals.throttled))
	}
	return found
}

func (r *result) rate(what string, b *bursts, goal float64) measure.Finding {
	machines, claims := b.machines.PerSecond(), b.claims.PerSecond()
	of := fmt.Sprintf("%.1f to %.1f; %s", machines, claims, b.machines.used.within(b.machines.Wall, cores()))
	return r.finding(what, machines/claims, measure.Goal{Limit: goal, Least: true}, of)
}

func (r *result) ofGrowth() []measure.Finding {
	var found []measure.Finding
	for i, g := range r.growth {
		few := r.growth[0]
		if i > 0 {
			of := fmt.Sprintf("%s to %s; a bare claim %s to %s", measure.MS(g.injected.Median()), measure.MS(few.injected.Median()),
				measure.MS(g.claim.Median()), measure.MS(few.claim.Median()))
			found = append(found, r.finding(fmt.Sprintf("injection with %d bindings / with %d, p50", g.bindings, few.bindings),
				measure.Ratio(g.injected.Median(), few.injected.Median()), measure.Goal{Limit: growthGoal}, of))
		}
		if i < len(r.growth)-1 {
			continue
		}
		memory, unit := measure.Goal{Unit: " MiB"}, measure.Goal{Unit: " s"}
		if g.bindings >= memoryMachines {
			memory.Limit = memoryGoal
		}
		found = append(found,
			r.finding(fmt.Sprintf("the manager's memory (RSS), %d machines", g.bindings), mebi(g.resident), memory, fmt.Sprintf("at most %.0f MiB ever", mebi(g.peak))),
			r.finding(fmt.Sprintf("start until Ready, %d machines, p50", g.bindings), g.starts.Median().Seconds(), unit,
				fmt.Sprintf("%d starts, the longest %s; until all was looked at %s of processor and %d writes", len(g.starts), measure.Seconds(g.starts.Max()), measure.Seconds(g.rests.Median()), g.written)))
	}
	return found
}

func (r *result) ofFailover() []measure.Finding {
	var found []measure.Finding
	for _, f := range []struct {
		what string
		failover
	}{{"killed", r.killed}, {"stopped", r.stopped}} {
		if f.adopted == 0 {
			continue
		}
		found = append(found,
			r.finding("the leader is "+f.what+": until a new machine's claim is adopted", f.adopted.Seconds(), measure.Goal{Unit: " s"}, "the lease is 15 s"),
			r.finding("the leader is "+f.what+": the longest create meanwhile", f.created.Seconds(), measure.Goal{Unit: " s"}, ""))
	}
	return found
}

func (r *result) ofWrites() []measure.Finding {
	if r.cost.machines == 0 {
		return nil
	}
	made, removed := r.cost.perMachine(r.cost.made), r.cost.perMachine(r.cost.remove)
	return []measure.Finding{
		r.finding("API writes for each machine that is made", made.Measured, measure.Goal{}, made.Of),
		r.finding("API writes for each that is removed", removed.Measured, measure.Goal{}, removed.Of),
	}
}

// ofDHCP are of all ways together: nobody asks us about such a machine.
func (r *results) ofDHCP() []measure.Finding {
	var plain, dhcp measure.Durations
	for _, way := range r.ways {
		plain, dhcp = append(plain, way.plain...), append(dhcp, way.dhcp...)
	}
	if len(dhcp) == 0 {
		return nil
	}
	return []measure.Finding{{
		What: "DHCP machine with us / without us, p50", Way: "all", Measured: measure.Ratio(dhcp.Median(), plain.Median()), Goal: measure.Goal{Limit: dhcpGoal},
		Of: fmt.Sprintf("%s to %s, %d samples each", measure.MS(dhcp.Median()), measure.MS(plain.Median()), len(dhcp)),
	}}
}

func (r *results) ofOwn() []measure.Finding {
	var found []measure.Finding
	for i, o := range r.own {
		if few := r.own[0]; i > 0 {
			found = append(found, measure.Finding{
				What: fmt.Sprintf("own share of a create with %d bindings / with %d", o.bindings, few.bindings), Way: "a provider that answers at once",
				Measured: measure.Ratio(o.share(), few.share()), Goal: measure.Goal{Limit: ownGoal},
				Of: fmt.Sprintf("%s to %s", measure.MS(o.share()), measure.MS(few.share())),
			})
		}
	}
	if len(r.scrape) > 0 {
		found = append(found, inMS(fmt.Sprintf("scrape of %d addresses in %d pools, p50", scrapedAddresses, scrapedPools), r.scrape.Median(), scrapeGoal))
	}
	if len(r.looks.took) == 0 {
		return found
	}
	const what, way = "kubectl static-ip pools -A", "the plugin"
	return append(found,
		measure.Finding{What: fmt.Sprintf("%s, %d machines, p50", what, r.looks.machines), Way: way, Measured: r.looks.took.Median().Seconds(), Goal: measure.Goal{Limit: pluginGoal.Seconds(), Unit: " s"}},
		measure.Finding{What: what + ", memory at most", Way: way, Measured: r.looks.resident, Goal: measure.Goal{Limit: pluginMemoryGoal, Unit: " MiB"}})
}

func inMS(what string, took, goal time.Duration) measure.Finding {
	const ms = float64(time.Millisecond)
	return measure.Finding{What: what, Way: "in this process", Measured: float64(took) / ms, Goal: measure.Goal{Limit: float64(goal) / ms, Unit: " ms"}}
}

func mebi(bytes int64) float64 { return float64(bytes) / (1 << 20) }
