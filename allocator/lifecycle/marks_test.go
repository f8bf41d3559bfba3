package lifecycle

import (
	"testing"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
)

func TestMarksThatALivingMachineMisses(t *testing.T) {
	moving := living()
	moving.moving = true
	// back is the claim of another name, marked for the machine, with the address that it
	// has lost.
	back := func(options ...option) holding {
		return bound(append([]option{withoutOwner, withoutAnnotation, named, func(_ *holding, c *ipamv1.IPClaim, a *ipamv1.IPAddress) {
			c.Name, c.UID, a.Name = "cp-9-0", "back", "address"
		}}, options...)...)
	}
	renamed := []renamedBinding{{claim: "cp-0-0"}}
	namingOther := func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) { naming("other")(c) }
	onOtherPool := func(_ *holding, c *ipamv1.IPClaim, _ *ipamv1.IPAddress) { c.Spec.Pool.Name = "other" }
	tests := map[string]struct {
		machine  machineState
		holdings []holding
		renamed  []renamedBinding
		bare     bool
		// found is the index of the holding in which what was lost is found, from one on.
		found           int
		rename, rewrite bool
	}{
		"none":                                    {machine: living(), holdings: []holding{bound()}},
		"the finalizer":                           {machine: living(), holdings: []holding{bound()}, bare: true, rewrite: true},
		"the finalizer, paused":                   {machine: living(), holdings: []holding{bound(paused)}, bare: true},
		"the finalizer, of an earlier machine":    {machine: living(), holdings: []holding{bound(ownedBy("earlier"))}, bare: true},
		"the finalizer, nothing bound":            {machine: living(), bare: true},
		"the annotation":                          {machine: living(), holdings: []holding{bound(withoutAnnotation)}, rewrite: true},
		"the annotation, paused":                  {machine: living(), holdings: []holding{bound(withoutAnnotation, paused)}},
		"the annotation of one of two":            {machine: living(), holdings: []holding{bound(), bound(withoutAnnotation, otherAddress)}, rewrite: true},
		"the annotation, bound by another claim":  {machine: living(), holdings: []holding{bound(), bound(withoutAnnotation, onOtherPool)}},
		"the annotation, taken":                   {machine: living(), holdings: []holding{taken(0, withoutAnnotation, onDevice)}, rewrite: true},
		"the annotation, taken and paused":        {machine: living(), holdings: []holding{taken(0, withoutAnnotation, onDevice, paused)}},
		"the annotation, taken, bound otherwise":  {machine: living(), holdings: []holding{bound(), taken(0, withoutAnnotation, onDevice, onOtherPool)}},
		"the annotation, no address yet":          {machine: living(), holdings: []holding{bound(withoutAnnotation, withoutAddress)}},
		"the annotation, the claim is gone":       {machine: living(), holdings: []holding{bound(withoutAnnotation, withoutClaim)}},
		"the annotation, an offered claim":        {machine: living(), holdings: []holding{bound(withoutAnnotation, offered("cp-0"))}, rewrite: true},
		"the annotation, offered to another":      {machine: living(), holdings: []holding{bound(withoutAnnotation, offered("cp-1"))}},
		"the annotation, of an earlier machine":   {machine: living(), holdings: []holding{bound(withoutAnnotation, ownedBy("earlier"))}},
		"the annotation, of another machine":      {machine: living(), holdings: []holding{bound(withoutAnnotation, anothers)}},
		"the name of a claim":                     {machine: living(), holdings: []holding{bound()}, renamed: renamed, rename: true},
		"the name of a claim, paused":             {machine: living(), holdings: []holding{bound(paused)}, renamed: renamed},
		"all of it, being deleted":                {machine: dying(), holdings: []holding{bound(withoutAnnotation)}, renamed: renamed, bare: true},
		"all of it, being moved":                  {machine: moving, holdings: []holding{bound(withoutAnnotation)}, renamed: renamed, bare: true},
		"all of it, never stored":                 {machine: absent(), holdings: []holding{bound(withoutAnnotation)}, renamed: renamed, bare: true},
		"a claim, back under another name":        {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back()}, found: 2},
		"a claim that failed, back under another": {machine: living(), holdings: []holding{bound(refused, withoutAddress), back()}, found: 2},
		"a claim, back, and the finalizer":        {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back()}, bare: true, found: 2, rewrite: true},
		"a claim that is not bound yet":           {machine: living(), holdings: []holding{bound(withoutAddress), back()}, rewrite: true},
		"a claim, and its address is there":       {machine: living(), holdings: []holding{bound(withoutClaim), back()}, rewrite: true},
		"a claim, paused":                         {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress, paused), back()}, rewrite: true},
		"a claim, back with another address":      {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(otherAddress)}, rewrite: true},
		"a claim, back and going":                 {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(terminatingClaim)}, rewrite: true},
		"a claim, back and owned":                 {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(ownedBy("uid"))}, rewrite: true},
		"a claim, back and paused":                {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(paused)}},
		"a claim, back, naming another address":   {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(namingOther)}, rewrite: true},
		"a claim, back on another pool":           {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(onOtherPool)}, rewrite: true},
		"a claim, back for another machine":       {machine: living(), holdings: []holding{bound(withoutClaim, withoutAddress), back(anothers)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &state{machineState: test.machine, object: &capi.VSphereMachine{}, renamed: test.renamed}
			if !test.bare {
				s.object.ObjectMeta = metav1.ObjectMeta{Finalizers: []string{ipam.ReleaseFinalizer}}
			}
			for _, h := range test.holdings {
				s.holdings = append(s.holdings, &h)
			}

			got := decideMarks(s)

			if got.rewrite != test.rewrite || (len(got.rename) > 0) != test.rename {
				t.Errorf("it renames %v, and rewrites: %t; want %t and %t", got.rename, got.rewrite, test.rename, test.rewrite)
			}
			switch {
			case test.found == 0:
				if got.found != nil {
					t.Errorf("it found %s", got.found.claim.GetName())
				}
			case got.found != s.holdings[test.found-1] || got.lost != s.holdings[0]:
				t.Errorf("it found %v for %v, want the holding %d for the first", got.found, got.lost, test.found)
			}
		})
	}
}
