package web

import (
	"net/url"

	"capv-static-ip.dev/inventory"
)

// What a cell shows beside the states of an inventory: an address of which something is
// wrong, and a place in a row that is no address of the pool.
const (
	problem inventory.State = "problem"
	outside inventory.State = "out"
)

// PoolRow is a pool in the list of pools. Numbers are in words: a pool of IPv6 has more
// than numbers hold.
type PoolRow struct {
	Key                                  inventory.PoolKey
	Family                               string
	Total, Used, Cooling, Reserved, Free string
	Surge                                int
	// Shares are the parts of the pool that are used, cooling and reserved, in thousandths.
	Shares [3]int
	// Status says what is the matter, and Attention that somebody should look.
	Status    string
	Attention bool
	// Findings leads to those about the pool.
	Findings Link
}

// Href is the pool's page.
func (p PoolRow) Href() string { return hrefOf(p.Key) }

func hrefOf(pool inventory.PoolKey) string {
	return "/pools/" + url.PathEscape(pool.KindName()) + "/" + escaped(pool.Namespace, pool.Name)
}

// PoolView is one pool.
type PoolView struct {
	PoolRow
	// Says is what the pool hands out.
	Says     []string
	Warnings []string
	// Problems are how many cells have one.
	Problems int
	// Blocks are there for a pool that is too large for one grid, and one is shown.
	Blocks []Block
	Grid   []GridRow
	Runs   []RunRow
	// Next leads to the rest of the Runs, empty if there is none.
	Next    string
	Demands []DemandRow
	Waiting []string
	Beside  Beside
}

// Block is 256 addresses that one grid shows.
type Block struct {
	First, Label string
	Used, Of     int
	Current      bool
}

// Level is how full the block is, in sixteenths.
func (b Block) Level() int { return (16*b.Used + b.Of - 1) / b.Of }

// GridRow is a row of a grid.
type GridRow struct {
	Label string
	Cells []Cell
}

// Cell is one address in a grid.
type Cell struct {
	Address string
	State   inventory.State
	// Text is what stands in the cell, and Says what it is in words.
	Text, Says string
	// IsFirst says that Tab leads to it; the arrows go on from there.
	IsFirst bool
}

// IsOut tells whether it is a place that no address of the pool has.
func (c Cell) IsOut() bool { return c.State == outside }

// RunRow is an address that somebody has, or a run of addresses that nobody has.
type RunRow struct {
	First, Last, Number        string
	State                      inventory.State
	Holder, Href               string
	Device, Cluster, VM, Since string
	// Note says what is wrong.
	Note string
}

// NoteHref leads to the findings that the note is of: these are about the address, as it is.
func (r RunRow) NoteHref() string { return query{about: "/addresses/" + r.First}.href() }

// IsMany tells whether it is a run of addresses.
func (r RunRow) IsMany() bool { return r.Last != "" }

// DemandRow is what a workload needs of a pool.
type DemandRow struct {
	Owner Link
	Has   int
	// Missing, RollOut and Max are what it needs on top.
	Missing, RollOut, Max, Verdict string
	Short                          bool
}

// Story is what is known of one object or address.
type Story struct {
	Title string
	Lines []Line
	// Next is what to do.
	Next string
	// Links lead on.
	Links  []Link
	Beside Beside
}

// Line is a sentence of a story.
type Line struct {
	Text string
	// Depth is of what is said of the line before.
	Depth int
	Wrong bool
}

// Link leads to another page.
type Link struct{ Text, Href string }

func path(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func escaped(namespace, name string) string {
	if namespace == "" {
		return url.PathEscape(name)
	}
	return url.PathEscape(namespace) + "/" + url.PathEscape(name)
}

// FindingsView are findings, those that are asked for.
type FindingsView struct {
	// Choices are the severities to choose from.
	Choices []Choice
	// Severity, Text, Namespace and About are what is asked for, and Namespaces what may be.
	Severity, Text, Namespace, About string
	Namespaces                       []string
	// AboutLink leads to the page that they are about.
	AboutLink Link
	// Narrowed says that not all are asked for, of which there are Total.
	Narrowed bool
	Total    int
	Rows     []FindingRow
	// Part says which these are, if they are not all, and Next leads to the rest.
	Part, Next string
	// LookedAt says how much was looked at, and LeftOut what was not looked for.
	LookedAt string
	LeftOut  []string
	// Unsure are those that are not looked at twice yet.
	Unsure int
}

// Choice is one of several ways to look at something.
type Choice struct {
	Link
	Current bool
}

// FindingRow is something that is not as it should be.
type FindingRow struct {
	ID, Severity, Check, Means string
	Object                     Link
	Text, Remedy               string
	// Also are other pages that it is about, and More how many are not shown.
	Also []Link
	More int
	// Href leads to it, where it is told beside something else.
	Href string
}

// Beside are findings, told beside what they are about.
type Beside struct {
	// Count says how many there are.
	Count string
	Rows  []FindingRow
	// All leads to them, if there are more.
	All Link
}
