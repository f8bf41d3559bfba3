package allocator

import (
	"fmt"

	"capv-static-ip.dev/allocator/ipam"
)

// fewLeft is up to how many addresses are counted one by one, see leftIn.
const fewLeft = 256

// preview says of each pool that was chosen what a request that was only checked
// would have of it.
func (a *Attempt) preview() (lines []string) {
	var pools []ipam.Pool
	claimed, found := map[ipam.PoolReference]int{}, map[ipam.PoolReference]int{}
	for _, al := range a.allocations {
		if claimed[al.want.Pool]+found[al.want.Pool] == 0 {
			pools = append(pools, al.pool)
		}
		if al.isNew {
			claimed[al.want.Pool]++
		} else {
			found[al.want.Pool]++
		}
	}
	for _, pool := range pools {
		name := fmt.Sprintf("%s %q", pool.Reference.Kind, pool.Reference.Name)
		if n := claimed[pool.Reference]; n > 0 {
			lines = append(lines, fmt.Sprintf("would claim %s of %s%s", addresses(n), name, leftIn(pool)))
		}
		if n := found[pool.Reference]; n > 0 {
			lines = append(lines, fmt.Sprintf("would use %s of %s for which there is a claim", addresses(n), name))
		}
	}
	return lines
}

func addresses(n int) string {
	if n == 1 {
		return "1 address"
	}
	return fmt.Sprintf("%d addresses", n)
}

// leftIn says how many addresses a pool has left, where it tells. The number may be too
// low as long as it is enough, so that where it is low more are asked for.
func leftIn(pool ipam.Pool) string {
	if pool.Free == nil {
		return ""
	}
	free, _ := pool.Free(nil)
	if free <= fewLeft {
		free, _ = pool.Free(make([]string, free+1))
	}
	return fmt.Sprintf(" (%d free)", free)
}
