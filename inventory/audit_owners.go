package inventory

import (
	"bytes"
	"cmp"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/retry"
)

// refusedForNothing finds owners that were refused long ago, and whose pools could serve.
func (a *audit) refusedForNothing() []*Finding {
	var findings []*Finding
	for _, owner := range a.Owners {
		since, known := owner.Since()
		if !known || a.At.Sub(since) < hangsAfter || !owner.DeletionTimestamp.IsZero() || a.isPaused(owner) {
			continue
		}
		if pool := a.firstWithRoom(owner); pool != nil {
			f := about(RefusedForNothing, Risky, involved(owner.Kind, owner)).in(pool).
				because("was refused %s ago for want of addresses of %s, which has enough by now", a.At.Sub(since).Round(time.Minute), pool).
				remedy("see if the manager runs; kubectl annotate %s %s -n %s %s- makes Cluster API try again", strings.ToLower(owner.Kind), owner.Name, owner.Namespace, ipam.RefusedByAnnotation)
			f.Involved = append(f.Involved, Involved{pool.Kind, types.NamespacedName{Namespace: pool.Namespace, Name: pool.Name}})
			findings = append(findings, f)
		}
	}
	return findings
}

// Since is when the note of its refusal was written on an owner, by the record of who wrote
// which field. It is written only when it changes.
func (owner *Owner) Since() (time.Time, bool) {
	for _, entry := range owner.ManagedFields {
		if entry.Time != nil && entry.FieldsV1 != nil && bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(`"f:`+ipam.RefusedByAnnotation+`"`)) {
			return entry.Time.Time, true
		}
	}
	return time.Time{}, false
}

// firstWithRoom is a pool of those that an owner waits for that has what it needs, nil if
// none has. One that is frozen gives it nothing.
func (a *audit) firstWithRoom(owner *Owner) *Pool {
	for _, obstacle := range slices.SortedFunc(maps.Keys(owner.Shortages), func(a, b retry.Obstacle) int { return cmp.Compare(a.String(), b.String()) }) {
		pool := a.PoolOf(owner.Namespace, obstacle.Pool)
		if obstacle.Reason != "" || pool == nil || a.isPartOf(pool) || a.freezeOf(owner.Namespace, pool) != nil {
			continue
		}
		if usage := pool.Usage(); usage.Known && usage.Free.Cmp(new(big.Int).SetUint64(owner.Shortages[obstacle])) >= 0 {
			return pool
		}
	}
	return nil
}
