package web

import (
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/duration"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

const (
	// runsMost is how many rows the list of a pool has on one page, and runsBeside how many
	// beside a grid of blocks.
	runsMost   = 256
	runsBeside = 64
	// rangesMost is how many ranges of a pool are told.
	rangesMost = 6
)

// poolRows are all pools, those that need attention first.
func poolRows(now state) []PoolRow {
	var rows []PoolRow
	for _, s := range now.graph.Summaries(now.problems) {
		row := poolRow(s)
		// Else they are told behind it.
		if s.Attention {
			row.Status = s.InAll("")
		}
		if count := countOf(now.about[row.Href()]); count != "" {
			row.Findings = Link{Text: count, Href: query{about: row.Href()}.href()}
		}
		rows = append(rows, row)
	}
	return rows
}

func poolRow(s inventory.Summary) PoolRow {
	row := PoolRow{
		Key: s.PoolKey, Family: familyOf(s.Pool), Total: "–", Reserved: "–", Free: "–", Surge: s.Surge,
		Used: strconv.Itoa(s.Used), Cooling: strconv.Itoa(s.Cooling), Status: s.Status, Attention: s.Attention,
	}
	if !s.Known {
		return row
	}
	row.Total, row.Reserved, row.Free = inventory.InWords(s.Total), inventory.InWords(s.Reserved), inventory.InWords(s.Free)
	for i, part := range []*big.Int{big.NewInt(int64(s.Used)), big.NewInt(int64(s.Cooling)), s.Reserved} {
		row.Shares[i] = share(part, s.Total)
	}
	return row
}

// share is a part in thousandths; what is there is seen.
func share(part, of *big.Int) int {
	if part.Sign() <= 0 || of.Sign() <= 0 {
		return 0
	}
	thousandths := new(big.Int).Mul(part, big.NewInt(1000))
	return max(1, int(thousandths.Div(thousandths, of).Int64()))
}

func familyOf(p *inventory.Pool) string {
	families := map[string]bool{}
	for _, r := range p.Ranges() {
		families[family(r.From())] = true
	}
	for _, a := range p.Addresses {
		if a.IP.IsValid() {
			families[family(a.IP)] = true
		}
	}
	if len(families) == 0 {
		return "–"
	}
	return strings.Join(slices.Sorted(maps.Keys(families)), ", ")
}

func family(ip netip.Addr) string {
	if ip.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// place is which part of a large pool to show.
type place struct {
	// block is the first address of a block, and from that of the list.
	block, from netip.Addr
}

// poolNamed is the pool of this name, nil if there is none.
func poolNamed(g *inventory.Graph, kind, namespace, name string) *inventory.Pool {
	i := slices.IndexFunc(g.Pools, func(p *inventory.Pool) bool {
		return p.KindName() == kind && p.Namespace == namespace && p.Name == name
	})
	if i < 0 {
		return nil
	}
	return g.Pools[i]
}

func poolView(now state, p *inventory.Pool, at place) PoolView {
	g := now.graph
	summary := g.Summary(p, now.problems)
	v := PoolView{PoolRow: poolRow(summary), Says: saysOf(p), Demands: demandRows(g, p), Beside: now.beside(hrefOf(p.PoolKey))}
	for _, owner := range summary.Waiting {
		v.Waiting = append(v.Waiting, fmt.Sprintf("%s %s", owner.Kind, path(owner.Namespace, owner.Name)))
	}
	notes := now.problems.At(p.PoolKey)
	runs := g.RunsWith(p, notes)
	most := runsMost
	if cells := g.Cells(p, cellsMost); len(cells) > 0 {
		v.Problems = countProblems(cells, notes)
		var block netip.Addr
		v.Blocks, block = blocksOf(cells, at.block)
		if len(v.Blocks) > 0 {
			most = runsBeside
			cells, runs = cellsOf(cells, block), runsIn(runs, block)
			at.block = block
		}
		v.Grid = gridOf(cells, runs, notes)
	}
	v.list(g, runs, notes, at, most)
	if v.Attention && v.Status != inventory.Fine {
		v.Warnings = append(v.Warnings, v.Status)
	}
	if v.Problems > 0 {
		v.Warnings = append(v.Warnings, plural(v.Problems, "problem")+": see what is marked with !")
	}
	return v
}

// list shows as many runs as a page has place for.
func (v *PoolView) list(g *inventory.Graph, runs []inventory.Run, notes map[netip.Addr]string, at place, most int) {
	begin := 0
	if at.from.IsValid() {
		begin = max(0, slices.IndexFunc(runs, func(r inventory.Run) bool { return at.from.Compare(r.Last) <= 0 }))
	}
	runs = runs[begin:]
	if len(runs) > most {
		query := url.Values{"from": {runs[most].First.String()}}
		if at.block.IsValid() {
			query.Set("block", at.block.String())
		}
		v.Next = v.Href() + "?" + query.Encode()
		runs = runs[:most]
	}
	for _, run := range runs {
		v.Runs = append(v.Runs, runRow(g, run, v.Key.Namespace == "", notes[run.First]))
	}
}

// saysOf is what the pool hands out, in sentences.
func saysOf(p *inventory.Pool) []string {
	var says []string
	network := p.Network(rangesMost)
	if text := network.RangesInWords(); text != "" {
		says = append(says, "Hands out "+text+".")
	}
	if given := network.GivenInWords(); len(given) > 0 {
		says = append(says, "Its machines get "+strings.Join(given, ", ")+".")
	}
	return says
}

func runRow(g *inventory.Graph, run inventory.Run, withNamespace bool, note string) RunRow {
	row := RunRow{First: run.First.String(), State: run.State, Note: note}
	h := run.Holding
	if h == nil {
		if run.First != run.Last {
			row.Last, row.Number = run.Last.String(), inventory.InWords(run.Number)
		}
		return row
	}
	row.Holder = h.Kind + "/" + h.Name
	if withNamespace {
		row.Holder = h.Kind + "/" + h.Namespace + "/" + h.Name
	}
	if h.Kind == capi.VSphereMachineKind.Kind && h.State == inventory.Used {
		row.Href = objectHref(h.Kind, h.Namespace, h.Name)
		row.Device = fmt.Sprintf("%d %s", h.Device.Index, h.Device.NetworkName)
	}
	row.Cluster, row.VM = h.Cluster, h.VM
	if !h.Since.IsZero() {
		row.Since = duration.HumanDuration(g.At.Sub(h.Since))
	}
	return row
}

func demandRows(g *inventory.Graph, p *inventory.Pool) []DemandRow {
	var rows []DemandRow
	for _, d := range g.Demands() {
		if d.Pool != p {
			continue
		}
		row := DemandRow{
			Owner: Link{Text: d.GetKind() + "/" + d.GetName(), Href: objectHref(d.GetKind(), d.GetNamespace(), d.GetName())},
			Has:   d.Has, Missing: onTop(d.Scale), RollOut: onTop(d.RollOut), Max: onTop(d.Max), Verdict: "enough",
		}
		switch short := d.Short(); {
		case short > 0:
			row.Short, row.Verdict = true, fmt.Sprintf("%d short", short)
		case !p.Usage().Known:
			row.Verdict = "not known"
		case d.Note != "":
			row.Verdict += "; " + d.Note
		}
		rows = append(rows, row)
	}
	return rows
}

// onTop is a number that comes on top, a dash if there is none.
func onTop(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("+%d", n)
}
