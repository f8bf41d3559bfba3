package web

import (
	"cmp"
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
	g, concerns := now.graph, concernsOf(now)
	problems := map[*inventory.Pool]int{}
	for ip := range notesOf(g) {
		for _, p := range g.PoolsWith(ip) {
			problems[p]++
		}
	}
	var rows []PoolRow
	for _, s := range g.Summaries(nil) {
		row := poolRow(s)
		switch n := problems[s.Pool]; {
		case n > 0 && s.Attention:
			row.Status += "; " + inProblems(n)
		case n > 0:
			row.Status, row.Attention = inProblems(n), true
		}
		if count := countOf(about(concerns, row.Href())); count != "" {
			row.Findings = Link{Text: count, Href: query{about: row.Href()}.href()}
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b PoolRow) int {
		return cmp.Compare(attention(a), attention(b))
	})
	return rows
}

func inProblems(n int) string { return plural(n, "problem") }

func attention(row PoolRow) int {
	if row.Attention {
		return 0
	}
	return 1
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
	g, concerns := now.graph, concernsOf(now)
	summary := g.Summary(p, nil)
	v := PoolView{PoolRow: poolRow(summary), Says: saysOf(g, p), Demands: demandRows(g, p), Beside: beside(concerns, hrefOf(p.PoolKey))}
	for _, owner := range summary.Waiting {
		v.Waiting = append(v.Waiting, fmt.Sprintf("%s %s", owner.Kind, path(owner.Namespace, owner.Name)))
	}
	notes := notesOf(g)
	runs := splitAt(g.Runs(p), notes)
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
	v.lead(concerns)
	if v.Attention {
		v.Warnings = append(v.Warnings, v.Status)
	}
	if v.Problems > 0 {
		v.Warnings = append(v.Warnings, inProblems(v.Problems)+": see what is marked with !")
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

// lead has what is wrong with addresses lead to what was found about them.
func (v *PoolView) lead(concerns []concern) {
	for i := range v.Runs {
		page := "/addresses/" + v.Runs[i].First
		if v.Runs[i].Note != "" && len(about(concerns, page)) > 0 {
			v.Runs[i].NoteHref = query{about: page}.href()
		}
	}
}

// saysOf is what the pool hands out, in sentences.
func saysOf(g *inventory.Graph, p *inventory.Pool) []string {
	var says, ranges []string
	for i, r := range p.Ranges() {
		if i == rangesMost {
			ranges = append(ranges, "…")
			break
		}
		if r.From() == r.To() {
			ranges = append(ranges, r.From().String())
		} else {
			ranges = append(ranges, r.From().String()+" – "+r.To().String())
		}
	}
	if len(ranges) > 0 {
		says = append(says, "Hands out "+strings.Join(ranges, ", ")+".")
	}
	for _, m := range g.Machines {
		for _, b := range m.Bindings {
			if b.Gateway.IsValid() && g.PoolOf(m.Namespace, b.Pool) == p {
				text := fmt.Sprintf("Its machines got gateway %s", b.Gateway)
				if len(b.Nameservers) > 0 {
					text += ", DNS " + strings.Join(b.Nameservers, ", ")
				}
				return append(says, text+".")
			}
		}
	}
	return says
}

// notesOf are what is wrong with addresses that are seen somewhere, by address.
func notesOf(g *inventory.Graph) map[netip.Addr]string {
	known := map[netip.Addr]bool{}
	for _, p := range g.Pools {
		for _, a := range p.Addresses {
			known[a.IP] = true
		}
	}
	notes := map[netip.Addr]string{}
	for ip, sightings := range g.AllSightings() {
		var holders []string
		held := false
		for _, s := range sightings {
			// A VM has what its machine has.
			if s.Kind != capi.VSphereVMKind.Kind {
				holders = append(holders, s.Kind+" "+s.String())
				held = held || s.Held
			}
		}
		switch {
		case len(holders) > 1:
			notes[ip] = "on " + strings.Join(holders, " and on ")
		case len(holders) == 1 && !known[ip] && !held:
			notes[ip] = "on " + holders[0] + ", written by hand"
		}
	}
	return notes
}

// splitAt makes rows of their own of those addresses that nobody has, and of which
// something is wrong.
func splitAt(runs []inventory.Run, notes map[netip.Addr]string) []inventory.Run {
	for ip := range notes {
		i, found := slices.BinarySearchFunc(runs, ip, func(r inventory.Run, ip netip.Addr) int {
			if r.First.Compare(ip) <= 0 && ip.Compare(r.Last) <= 0 {
				return 0
			}
			return r.First.Compare(ip)
		})
		if found && runs[i].Holding == nil {
			runs = slices.Replace(runs, i, i+1, runs[i].SplitAt(ip)...)
		}
	}
	return runs
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
