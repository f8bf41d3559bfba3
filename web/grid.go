package web

import (
	"fmt"
	"math/big"
	"net/netip"
	"strconv"

	"capv-static-ip.dev/inventory"
)

const (
	// cellsMost is the largest pool of which all addresses are drawn: a /16.
	cellsMost = 1 << 16
	// blockBits and rowBits are how long the prefix of a block and of a row is. One grid
	// shows a block, or as many rows.
	blockBits = 24
	rowBits   = 27
	rowLength = 32
	rowsMost  = 16
)

func prefixOf(ip netip.Addr, bits int) netip.Prefix { return netip.PrefixFrom(ip, bits).Masked() }

// blocksOf are the blocks of a pool that is too large for one grid, none if it is not, with
// the one to show: that which is asked for, or the first.
func blocksOf(cells []inventory.Cell, asked netip.Addr) ([]Block, netip.Addr) {
	rows := map[netip.Prefix]bool{}
	var blocks []Block
	var firsts []netip.Addr
	for _, cell := range cells {
		rows[prefixOf(cell.IP, rowBits)] = true
		first := prefixOf(cell.IP, blockBits).Addr()
		if len(firsts) == 0 || firsts[len(firsts)-1] != first {
			firsts = append(firsts, first)
			blocks = append(blocks, Block{First: first.String()})
		}
		b := &blocks[len(blocks)-1]
		b.Of++
		if cell.State != inventory.Free && cell.State != inventory.Reserved {
			b.Used++
		}
	}
	if len(rows) <= rowsMost {
		return nil, netip.Addr{}
	}
	current := 0
	shared := prefixOf(firsts[0], 16).Contains(firsts[len(firsts)-1])
	for i, first := range firsts {
		if first == asked {
			current = i
		}
		bytes := first.As4()
		blocks[i].Label = fmt.Sprintf(".%d", bytes[2])
		if !shared {
			blocks[i].Label = fmt.Sprintf("%d.%d.%d", bytes[0], bytes[1], bytes[2])
		}
	}
	blocks[current].Current = true
	return blocks, firsts[current]
}

// cellsOf are those of one block.
func cellsOf(cells []inventory.Cell, block netip.Addr) []inventory.Cell {
	var of []inventory.Cell
	for _, cell := range cells {
		if prefixOf(cell.IP, blockBits).Addr() == block {
			of = append(of, cell)
		}
	}
	return of
}

// runsIn are the runs of one block. Those that go beyond it are cut.
func runsIn(runs []inventory.Run, block netip.Addr) []inventory.Run {
	bytes := block.As4()
	bytes[3] = 255
	end := netip.AddrFrom4(bytes)
	var in []inventory.Run
	for _, run := range runs {
		if !run.First.Is4() || run.Last.Compare(block) < 0 || run.First.Compare(end) > 0 {
			continue
		}
		if run.First.Compare(block) < 0 {
			run.First = block
		}
		if run.Last.Compare(end) > 0 {
			run.Last = end
		}
		run.Number = big.NewInt(int64(lastOctet(run.Last)-lastOctet(run.First)) + 1)
		in = append(in, run)
	}
	return in
}

func lastOctet(ip netip.Addr) int { return int(ip.As4()[3]) }

func countProblems(cells []inventory.Cell, notes map[netip.Addr]string) int {
	n := 0
	for _, cell := range cells {
		if notes[cell.IP] != "" {
			n++
		}
	}
	return n
}

// gridOf draws cells in rows that begin at a multiple of their length.
func gridOf(cells []inventory.Cell, runs []inventory.Run, notes map[netip.Addr]string) []GridRow {
	holders := map[netip.Addr]*inventory.Holding{}
	for _, run := range runs {
		if run.Holding != nil {
			holders[run.First] = run.Holding
		}
	}
	oneBlock := prefixOf(cells[0].IP, blockBits).Contains(cells[len(cells)-1].IP)
	var rows []GridRow
	var begin netip.Addr
	for i, cell := range cells {
		if first := prefixOf(cell.IP, rowBits).Addr(); first != begin {
			begin = first
			rows = append(rows, emptyRow(first, oneBlock))
		}
		drawn := cellView(cell, holders[cell.IP], notes[cell.IP])
		drawn.IsFirst = i == 0
		rows[len(rows)-1].Cells[lastOctet(cell.IP)%rowLength] = drawn
	}
	return rows
}

func emptyRow(first netip.Addr, oneBlock bool) GridRow {
	row := GridRow{Label: first.String(), Cells: make([]Cell, rowLength)}
	if oneBlock {
		row.Label = fmt.Sprintf(".%d", lastOctet(first))
	}
	for i := range row.Cells {
		row.Cells[i].State = outside
	}
	return row
}

func cellView(cell inventory.Cell, holding *inventory.Holding, note string) Cell {
	drawn := Cell{Address: cell.IP.String(), State: cell.State, Text: strconv.Itoa(lastOctet(cell.IP))}
	drawn.Says = fmt.Sprintf("%s %s", cell.IP, cell.State)
	if holding != nil {
		drawn.Says += fmt.Sprintf(" by %s %s", holding.Kind, holding.Name)
	}
	if cell.State == inventory.Cooling {
		drawn.Says = fmt.Sprintf("%s cooling", cell.IP)
	}
	if cell.State == inventory.Reserved {
		drawn.Text = "✕"
	}
	if note != "" {
		drawn.State, drawn.Text, drawn.Says = problem, "!", fmt.Sprintf("%s problem: %s", cell.IP, note)
	}
	return drawn
}
