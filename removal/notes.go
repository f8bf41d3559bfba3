package removal

import (
	"fmt"

	"capv-static-ip.dev/allocator/ipam"
)

// claimNotes tell of claims that stay, and that nobody deletes.
func (r *Removal) claimNotes(s *state) []string {
	var notes []string
	for _, claim := range s.claims {
		switch {
		case ipam.IsSetAside(claim.Object):
			notes = append(notes, fmt.Sprintf("%s keeps an address that no machine can be given: delete it when nothing uses that", claim))
		case r.Mode == Keep && isOurs(claim) && ipam.HolderOf(claim.Object).Kind == ipam.OfCluster:
			notes = append(notes, fmt.Sprintf("%s keeps the endpoint of a Cluster: delete it when the Cluster is gone", claim))
		}
	}
	if r.Mode == Keep && len(s.holders()) > 0 {
		notes = append(notes, "from then on, an address is freed when its VSphereMachine object is gone: "+
			"delete none that no Machine owns while its VM is there, and none with --cascade=foreground")
	}
	return notes
}
