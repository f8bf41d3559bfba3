package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"capv-static-ip.dev/inventory"
)

// poolItem is what -o json prints of a pool. Numbers are texts: those of IPv6 are large.
type poolItem struct {
	Metadata meta   `json:"metadata"`
	Pool     string `json:"pool"`
	Total    string `json:"total,omitempty"`
	Used     int    `json:"used"`
	Cooling  int    `json:"cooling"`
	Reserved string `json:"reserved,omitempty"`
	Free     string `json:"free,omitempty"`
	Surge    int    `json:"surge"`
	Waiting  int    `json:"waiting"`
	Status   string `json:"status"`
}

// meta is what -o name needs.
type meta struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func newPools(o *options) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "pools", Short: "How full are the pools", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return o.watchPools(cmd.Context())
			}
			graph, err := o.readHere(cmd.Context())
			if err != nil {
				return err
			}
			return o.showOf(graph, poolList(graph))
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "After that, show each pool again that has changed, until it is interrupted.")
	return cmd
}

func poolList(graph *inventory.Graph) *list {
	l := &list{kind: "Pool", columns: []column{
		{name: "NAMESPACE"}, {name: "POOL"}, {name: "TOTAL"}, {name: "USED"}, {name: "COOLING"},
		{name: "RESERVED", wide: true}, {name: "FREE"}, {name: "SURGE"}, {name: "STATUS"},
	}}
	for _, s := range graph.Summaries() {
		key := s.PoolKey
		key.Namespace = ""
		item := &poolItem{
			Metadata: meta{s.Namespace, s.Name}, Pool: key.String(), Used: s.Used, Cooling: s.Cooling,
			Surge: s.Surge, Waiting: len(s.Waiting), Status: s.Status,
		}
		total, reserved, free := "-", "-", "-"
		if s.Known {
			item.Total, item.Reserved, item.Free = s.Total.String(), s.Reserved.String(), s.Free.String()
			total, reserved, free = inventory.InWords(s.Total), inventory.InWords(s.Reserved), inventory.InWords(s.Free)
		}
		l.add(item, s.Namespace, key.String(), total, s.Used, s.Cooling, reserved, free, s.Surge, s.Status)
	}
	return l
}

// holdingItem is what -o json prints of an address that somebody has.
type holdingItem struct {
	Metadata  meta   `json:"metadata"`
	Address   string `json:"address"`
	State     string `json:"state"`
	Holder    string `json:"holder"`
	Device    string `json:"device,omitempty"`
	Cluster   string `json:"cluster,omitempty"`
	VM        string `json:"vm,omitempty"`
	Protected bool   `json:"protected"`
}

func newPool(o *options) *cobra.Command {
	var grid bool
	cmd := &cobra.Command{
		Use: "pool [KIND/]NAME", Short: "Who has the addresses of a pool", Args: cobra.ExactArgs(1), ValidArgsFunction: o.completePool,
		RunE: func(cmd *cobra.Command, args []string) error {
			graph, err := o.readHere(cmd.Context())
			if err != nil {
				return err
			}
			pool, err := poolNamed(graph, args[0])
			if err != nil {
				return err
			}
			if o.isTable() {
				o.header(graph, pool)
				if grid {
					o.grid(graph, pool)
				}
			}
			return o.showOf(graph, holdingList(graph, pool))
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

func (o *options) header(graph *inventory.Graph, pool *inventory.Pool) {
	usage := pool.Usage()
	if !usage.Known {
		fmt.Fprintf(o.streams.Out, "%s\n%d used, %d cooling; the provider does not say how many there are.\n", pool, usage.Used, usage.Cooling)
	} else {
		fmt.Fprintf(o.streams.Out, "%s\n%s addresses: %d used, %d cooling, %s reserved, %s free.\n", pool,
			inventory.InWords(usage.Total), usage.Used, usage.Cooling, inventory.InWords(usage.Reserved), inventory.InWords(usage.Free))
	}
	for _, owner := range graph.WaitingFor(pool.PoolKey) {
		fmt.Fprintf(o.streams.Out, "%s %s/%s waits for it.\n", owner.Kind, owner.Namespace, owner.Name)
	}
	fmt.Fprintln(o.streams.Out)
}

func holdingList(graph *inventory.Graph, pool *inventory.Pool) *list {
	l := &list{kind: "Holding", columns: []column{
		{name: "ADDRESS"}, {name: "STATE"}, {name: "HOLDER"}, {name: "DEVICE"}, {name: "CLUSTER"}, {name: "VM"}, {name: "AGE"},
		{name: "CLAIM", wide: true}, {name: "PROTECTED", wide: true},
	}}
	for _, h := range graph.Holdings(pool) {
		holder := h.Kind + "/" + h.Name
		if pool.Namespace == "" {
			holder = h.Kind + "/" + h.Namespace + "/" + h.Name
		}
		device := ""
		if h.Kind == "VSphereMachine" && h.State == inventory.Used {
			device = fmt.Sprintf("%d %s", h.Device.Index, h.Device.NetworkName)
		}
		l.add(&holdingItem{
			Metadata: meta{h.Namespace, h.Address.GetName()}, Address: h.IP.String(), State: string(h.State), Holder: holder,
			Device: device, Cluster: h.Cluster, VM: h.VM, Protected: h.Protected,
		}, h.IP.String(), string(h.State), holder, orDash(device), orDash(h.Cluster), orDash(h.VM), ageOf(graph.At, h.Since), h.Address.Claim, h.Protected)
	}
	return l
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

// grid draws the addresses of a pool of IPv4, a sign each.
func (o *options) grid(graph *inventory.Graph, pool *inventory.Pool) {
	cells := graph.Cells(pool, gridMost)
	if cells == nil {
		fmt.Fprintf(o.streams.ErrOut, "warning: %s is not drawn: it has more than %d addresses, or does not say which\n", pool, gridMost)
		return
	}
	fmt.Fprintln(o.streams.Out, "# used   ~ cooling   . free   x reserved")
	var row netip.Addr
	for _, cell := range cells {
		if begin := rowOf(cell.IP); begin != row {
			if row.IsValid() {
				fmt.Fprintln(o.streams.Out)
			}
			row = begin
			fmt.Fprintf(o.streams.Out, "%-16s%s", begin, strings.Repeat(" ", int(cell.IP.As4()[3])%gridRow))
		}
		fmt.Fprint(o.streams.Out, map[inventory.State]string{
			inventory.Used: "#", inventory.Cooling: "~", inventory.Free: ".", inventory.Reserved: "x",
		}[cell.State])
	}
	fmt.Fprint(o.streams.Out, "\n\n")
}

// rowOf is the first address of the row that an address is drawn in.
func rowOf(ip netip.Addr) netip.Addr {
	bytes := ip.As4()
	bytes[3] -= bytes[3] % gridRow
	return netip.AddrFrom4(bytes)
}
