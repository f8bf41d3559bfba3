package ledger

import (
	"net/netip"
	"slices"
	"sort"

	"go4.org/netipx"
)

// maxChunk is the most addresses of a chunk: so many are moved to insert one, and as many
// chunks are passed to count. With it ten thousand addresses are some fifty chunks.
const maxChunk = 256

// tally is how many objects there are of one address, and how many of these cool down.
type tally struct {
	ip               netip.Addr
	objects, cooling int
}

// isCooling tells whether the address cools down: it does not, if any object of it is used.
func (t tally) isCooling() bool { return t.objects == t.cooling }

// addresses are tallies by address, in order, in chunks: so that those of a range can be
// counted without looking at each, and one more costs as good as nothing.
type addresses struct {
	chunks            [][]tally
	distinct, cooling int
}

// find is where an address is, or has to be inserted.
func (a *addresses) find(ip netip.Addr) (chunk, i int, found bool) {
	chunk = sort.Search(len(a.chunks), func(c int) bool { return !a.chunks[c][len(a.chunks[c])-1].ip.Less(ip) })
	if chunk == len(a.chunks) {
		if chunk == 0 {
			return 0, 0, false
		}
		return chunk - 1, len(a.chunks[chunk-1]), false
	}
	i, found = slices.BinarySearchFunc(a.chunks[chunk], ip, func(t tally, ip netip.Addr) int { return t.ip.Compare(ip) })
	return chunk, i, found
}

func (a *addresses) has(ip netip.Addr) bool {
	_, _, found := a.find(ip)
	return found
}

// add counts one object more of an address, or with -1 one less.
func (a *addresses) add(ip netip.Addr, cooling bool, change int) {
	chunk, i, found := a.find(ip)
	if !found {
		a.insert(chunk, i, ip)
		// A new chunk may have been begun.
		chunk, i, _ = a.find(ip)
	}
	t := &a.chunks[chunk][i]
	if found && t.isCooling() {
		a.cooling--
	}
	t.objects += change
	if cooling {
		t.cooling += change
	}
	switch {
	case t.objects <= 0:
		a.remove(chunk, i)
	case t.isCooling():
		a.cooling++
	}
}

func (a *addresses) insert(chunk, i int, ip netip.Addr) {
	a.distinct++
	if len(a.chunks) == 0 {
		a.chunks = [][]tally{{{ip: ip}}}
		return
	}
	full := slices.Insert(a.chunks[chunk], i, tally{ip: ip})
	a.chunks[chunk] = full
	if len(full) > maxChunk {
		half := len(full) / 2
		a.chunks[chunk] = full[:half:half]
		a.chunks = slices.Insert(a.chunks, chunk+1, slices.Clone(full[half:]))
	}
}

func (a *addresses) remove(chunk, i int) {
	a.distinct--
	left := slices.Delete(a.chunks[chunk], i, i+1)
	if len(left) == 0 {
		a.chunks = slices.Delete(a.chunks, chunk, chunk+1)
		return
	}
	a.chunks[chunk] = left
}

// countIn is how many addresses of a set there are.
func (a *addresses) countIn(set *netipx.IPSet) uint64 {
	count := 0
	for _, r := range set.Ranges() {
		count += a.upTo(r.To(), true) - a.upTo(r.From(), false)
	}
	return uint64(count) //nolint:gosec // the end of a range is not before its beginning
}

// upTo is how many addresses there are before this one, or with it.
func (a *addresses) upTo(ip netip.Addr, inclusive bool) int {
	chunk, i, found := a.find(ip)
	count := i
	for _, before := range a.chunks[:chunk] {
		count += len(before)
	}
	if found && inclusive {
		count++
	}
	return count
}
