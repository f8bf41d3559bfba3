package web

// State is what is the matter with one address.
type State string

// The states of an address. Each has a colour, a pattern and a sign of its own.
const (
	Used     State = "used"
	Cooling  State = "cooling"
	Free     State = "free"
	Reserved State = "reserved"
	Problem  State = "problem"
	// out is a place in a row that is no address of the pool.
	out State = "out"
)

// Counts are how many addresses of a pool are in each state, in words: a pool of
// IPv6 has more than numbers hold.
type Counts struct {
	Total, Used, Cooling, Reserved, Free string
	// Shares are the parts of the pool that are used, cooling and reserved, in thousandths.
	Shares [3]int
}

// PoolRow is a pool in the list of pools.
type PoolRow struct {
	Namespace, Kind, Name, Family string
	Counts
	Surge string
	// Status says what is the matter, and Attention that somebody should look.
	Status    string
	Attention bool
}

// PoolView is one pool.
type PoolView struct {
	PoolRow
	// Says is what the pool hands out: ranges, gateway, DNS servers.
	Says     string
	Warnings []string
	// Blocks are there for a pool that is too large for one grid, and one is shown.
	Blocks  []Block
	Grid    []GridRow
	Runs    []Run
	Waiting []Waiting
}

// Block is 256 addresses that one grid shows.
type Block struct {
	First   string
	Label   string
	Used    int
	Of      int
	Current bool
}

// GridRow is a row of a grid.
type GridRow struct {
	Label string
	Cells []Cell
}

// Cell is one address in a grid.
type Cell struct {
	Address string
	State   State
	// Text is what stands in the cell, and Says what it is in words.
	Text, Says string
}

// IsOut tells whether it is a place that no address of the pool has.
func (c Cell) IsOut() bool { return c.State == out }

// Run is an address that somebody has, or a run of addresses that nobody has.
type Run struct {
	First, Last string
	// Number is how many addresses a run has, in words.
	Number string
	State  State
	Holder
}

// Holder is who has an address.
type Holder struct {
	Namespace, Kind, Name    string
	Device, Cluster, VM, Age string
	Note                     string
}

// Waiting is an owner whose machines are refused.
type Waiting struct {
	Namespace, Kind, Name string
	Needs, Since          string
}

// Story is what is known of one object or address, as lines of a tree.
type Story struct {
	Title string
	// Lines are as the command line prints them.
	Lines []string
	// Links lead on.
	Links []Link
}

// Link leads to another page.
type Link struct{ Text, Href string }

// Finding is something that is wrong.
type Finding struct{ Severity, Check, Object, Text string }
