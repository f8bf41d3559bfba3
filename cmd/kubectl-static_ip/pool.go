package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

// rangesMost is how many ranges of a pool are told.
const rangesMost = 3

func newPool(o *options) *cobra.Command {
	var grid bool
	cmd := &cobra.Command{
		Use: "pool [KIND/]NAME", Short: "Who has the addresses of a pool", Args: cobra.ExactArgs(1), ValidArgsFunction: o.completePool,
		RunE: func(cmd *cobra.Command, args []string) error {
			graph, problems, err := o.readWithProblems(cmd.Context())
			if err != nil {
				return err
			}
			pool, err := poolNamed(graph, args[0])
			if err != nil {
				return err
			}
			notes := problems.At(pool.PoolKey)
			if o.isTable() {
				o.header(graph, pool, problems)
				if grid {
					o.grid(graph, pool, notes)
				}
			}
			return o.showOf(graph, holdingList(graph, pool, notes))
		},
	}
	cmd.Flags().BoolVar(&grid, "grid", false, "Draw the addresses, too, where the pool has 1024 at the most.")
	return cmd
}

// poolNamed is the pool that [KIND/]NAME means.
func poolNamed(graph *inventory.Graph, text string) (*inventory.Pool, error) {
	kind, name, hasKind := strings.Cut(text, "/")
	if !hasKind {
		kind, name = "", text
	}
	var found []*inventory.Pool
	for _, pool := range graph.Pools {
		if pool.Name == name && (kind == "" || strings.EqualFold(kind, pool.Kind) || strings.EqualFold(kind, pool.KindName())) {
			found = append(found, pool)
		}
	}
	switch len(found) {
	case 0:
		return nil, exit{exitNo, fmt.Errorf("no pool %q here: see kubectl static-ip pools -A", text)}
	case 1:
		return found[0], nil
	}
	names := make([]string, 0, len(found))
	for _, pool := range found {
		names = append(names, pool.String())
	}
	return nil, exit{exitUsage, fmt.Errorf("%q means %s: write KIND/NAME, and name a namespace", text, strings.Join(names, " and "))}
}

// header says what the pool hands out, how much of it, who waits, and what is wrong with the
// pool as such.
func (o *options) header(graph *inventory.Graph, pool *inventory.Pool, problems inventory.Problems) {
	fmt.Fprintln(o.streams.Out, oneLine(strings.Join(append([]string{pool.String()}, networkOf(pool)...), "   ")))
	usage := pool.Usage()
	if !usage.Known {
		fmt.Fprintf(o.streams.Out, "%d used, %d cooling; the provider does not say how many there are.\n", usage.Used, usage.Cooling)
	} else {
		fmt.Fprintf(o.streams.Out, "%s addresses: %d used, %d cooling, %s reserved, %s free.\n",
			inventory.InWords(usage.Total), usage.Used, usage.Cooling, inventory.InWords(usage.Reserved), inventory.InWords(usage.Free))
	}
	for _, owner := range graph.WaitingFor(pool.PoolKey) {
		fmt.Fprintf(o.streams.Out, "%s %s/%s waits for %s of it", owner.Kind, owner.Namespace, owner.Name, plural(int(owner.Needs(pool.PoolReference)), "address")) //nolint:gosec // it is 255 at most
		if since, known := owner.Since(); known {
			fmt.Fprintf(o.streams.Out, ", since %s", ageOf(graph.At, since))
		}
		fmt.Fprintln(o.streams.Out)
	}
	for _, text := range problems.Elsewhere(pool.PoolKey) {
		fmt.Fprintf(o.streams.Out, "%s %s\n", o.paint(red, "!"), oneLine(text))
	}
	fmt.Fprintln(o.streams.Out)
}

// networkOf is what a pool's machines are given, as far as it says so.
func networkOf(pool *inventory.Pool) []string {
	network := pool.Network(rangesMost)
	var parts []string
	if text := network.RangesInWords(); text != "" {
		parts = append(parts, text)
	}
	return append(parts, network.GivenInWords()...)
}

// holdingList are the addresses that somebody has, and those of which something is wrong.
func holdingList(graph *inventory.Graph, pool *inventory.Pool, notes map[netip.Addr]string) *list {
	l := &list{kind: "Holding", columns: []column{
		{name: "ADDRESS"}, {name: "STATE"}, {name: "HOLDER"}, {name: "DEVICE"}, {name: "CLUSTER"}, {name: "VM"}, {name: "AGE"},
		{name: "CLAIM", wide: true}, {name: "PROTECTED", wide: true}, {name: "PROBLEM"},
	}}
	for _, run := range graph.RunsWith(pool, notes) {
		note := notes[run.First]
		switch {
		case run.Holding != nil:
			l.addHolding(graph, pool, run.Holding, note)
		case note != "":
			l.add(&v1alpha1.Holding{Metadata: meta(pool.Namespace, run.First.String()), Address: run.First.String(), State: string(run.State), Problem: note},
				run.First.String(), string(run.State), "-", "-", "-", "-", "-", "-", "-", problem(note))
		}
	}
	return l
}

func (l *list) addHolding(graph *inventory.Graph, pool *inventory.Pool, h *inventory.Holding, note string) {
	item := &v1alpha1.Holding{
		Metadata: meta(h.Namespace, h.Address.GetName()), Address: h.IP.String(), State: string(h.State), Holder: h.Kind + "/" + h.Name,
		Cluster: h.Cluster, VM: h.VM, Protected: h.Protected, Problem: note,
	}
	if pool.Namespace == "" {
		item.Holder = h.Kind + "/" + h.Namespace + "/" + h.Name
	}
	if h.Kind == capi.VSphereMachineKind.Kind && h.State == inventory.Used {
		item.Device = fmt.Sprintf("%d %s", h.Device.Index, h.Device.NetworkName)
	}
	l.add(item, item.Address, item.State, item.Holder, orDash(item.Device), orDash(item.Cluster), orDash(item.VM), ageOf(graph.At, h.Since),
		h.Address.Claim, h.Protected, problem(note))
}

// problem is a cell that says what is wrong, nothing if that is nothing.
func problem(note string) painted {
	if note == "" {
		return painted{}
	}
	return painted{"! " + note, red}
}

func ageOf(now, since time.Time) string {
	if since.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(since))
}

// gridMost is the largest pool that is drawn, and gridRow the addresses in a row.
const (
	gridMost = 1024
	gridRow  = 32
)

// signs are how the states are drawn. Of what is wrong there is one for all of them.
var (
	signs = map[inventory.State]painted{
		inventory.Used: {"#", plain}, inventory.Cooling: {"~", yellow}, inventory.Free: {".", green}, inventory.Reserved: {"x", plain},
	}
	wrong = painted{"!", red}
)

// grid draws the addresses of a pool of IPv4, a sign each.
func (o *options) grid(graph *inventory.Graph, pool *inventory.Pool, notes map[netip.Addr]string) {
	cells := graph.Cells(pool, gridMost)
	if cells == nil {
		fmt.Fprintf(o.streams.ErrOut, "warning: %s is not drawn: it has more than %d addresses, or does not say which\n", pool, gridMost)
		return
	}
	draw := func(s painted) string { return o.paint(s.colour, s.text) }
	fmt.Fprintf(o.streams.Out, "%s used   %s cooling   %s free   %s reserved   %s problem\n",
		draw(signs[inventory.Used]), draw(signs[inventory.Cooling]), draw(signs[inventory.Free]), draw(signs[inventory.Reserved]), draw(wrong))
	var row netip.Addr
	drawn := 0
	for _, cell := range cells {
		if begin := rowOf(cell.IP); begin != row {
			if row.IsValid() {
				fmt.Fprintln(o.streams.Out)
			}
			row, drawn = begin, 0
			fmt.Fprintf(o.streams.Out, "%-16s", begin)
		}
		// What the pool does not have stays empty.
		at := int(cell.IP.As4()[3]) % gridRow
		fmt.Fprint(o.streams.Out, strings.Repeat(" ", at-drawn))
		drawn = at + 1
		if notes[cell.IP] != "" {
			fmt.Fprint(o.streams.Out, draw(wrong))
			continue
		}
		fmt.Fprint(o.streams.Out, draw(signs[cell.State]))
	}
	fmt.Fprint(o.streams.Out, "\n\n")
}

// rowOf is the first address of the row that an address is drawn in.
func rowOf(ip netip.Addr) netip.Addr {
	bytes := ip.As4()
	bytes[3] -= bytes[3] % gridRow
	return netip.AddrFrom4(bytes)
}
