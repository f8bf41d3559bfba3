package migration

import (
	"context"
	"fmt"

	"capv-static-ip.dev/allocator/ipam"
)

// PlanBack is what Abort would do. It writes nothing.
func (m *Migration) PlanBack(ctx context.Context) (*Plan, error) {
	p, err := m.survey(ctx)
	if err != nil {
		return nil, err
	}
	back := &Plan{Machines: p.halfWay(), Stops: p.Stops}
	for i := range back.Machines {
		back.Machines[i].Writes = back.Machines[i].back
	}
	return back, nil
}

// backOf are what is written to undo moves. Where the new claim is the current one, there is no way
// back.
func backOf(moves []ipam.Move, bindings []ipam.Binding) []string {
	writes := make([]string, 0, len(moves))
	for _, move := range moves {
		write := fmt.Sprintf("%s back to claim %s of %s %s", move.Address, move.From.Claim, move.From.Pool.Kind, move.From.Pool.Name)
		if current, known := move.Current(bindings); known && current == move.To {
			write = fmt.Sprintf("%s stays with claim %s of %s %s, which the machine names already", move.Address, move.To.Claim, move.To.Pool.Kind, move.To.Pool.Name)
		}
		writes = append(writes, write)
	}
	return writes
}
