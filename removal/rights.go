package removal

import (
	"context"
	"slices"

	"capv-static-ip.dev/procedure"
)

// missingRights is a stop for the rights that the steps need, and that who removes does not
// have, nil if there are none.
func (r *Removal) missingRights(ctx context.Context, s *state) (*Stop, error) {
	needed := procedure.Rights{}
	for _, each := range slices.Concat(s.protection, s.webhooks, s.rest) {
		if err := needed.Need(r.Client, "delete", each.Object); err != nil {
			return nil, err
		}
	}
	if len(s.deployments) > 0 && !s.isStopped() {
		needed.NeedPatch("apps", "deployments")
	}
	if r.Mode == Keep {
		for _, each := range s.finalized() {
			if err := needed.Need(r.Client, "patch", each.Object); err != nil {
				return nil, err
			}
		}
	}
	return needed.Missing(ctx, r.Client)
}
