package endpoint

import (
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	capiipamv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	clusterctlv1 "sigs.k8s.io/cluster-api/cmd/clusterctl/api/v1alpha3"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/kube"
)

const grace = time.Minute

var (
	now  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	prod = ipam.Holder{Kind: ipam.OfCluster, Name: "prod"}
)

// changes are what a case makes different in the holding of a living VSphereCluster.
type changes []func(*clusterState, *holding)

func aClaim(age time.Duration, adopted bool) *ipam.Claim {
	obj := &capiipamv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "prod", UID: "claim", CreationTimestamp: metav1.NewTime(now.Add(-age)),
	}}
	ipam.Mark(obj, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: types.NamespacedName{Namespace: "ns", Name: "prod"}})
	ipam.Use(obj, ipam.Stamp{Time: now.Add(-age), Request: "request"})
	if !adopted {
		kube.SetAnnotation(obj, ipam.RequestedByAnnotation, "none")
	}
	return &ipam.Claim{Object: obj, Address: "prod"}
}

func anAddress() *ipam.Address {
	obj := &capiipamv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prod"}}
	ipam.ProtectFor(obj, prod)
	return &ipam.Address{Object: obj, Claim: "prod", IP: "10.0.0.1"}
}

func aBinding() *ipam.Binding {
	return &ipam.Binding{Claim: "prod", Address: netip.MustParsePrefix("10.0.0.1/32")}
}

func going(obj client.Object) { obj.SetDeletionTimestamp(&metav1.Time{Time: now}) }

func TestDecision(t *testing.T) {
	deleting := func(c *clusterState, _ *holding) { c.deleting = true }
	done := func(c *clusterState, _ *holding) { c.deleting, c.done = true, true }
	gone := func(c *clusterState, _ *holding) { *c = clusterState{holder: prod} }
	departed := func(c *clusterState, _ *holding) { c.departed = true }
	paused := func(c *clusterState, _ *holding) { c.paused = true }
	otherHost := func(c *clusterState, _ *holding) { c.host = netip.MustParseAddr("10.0.0.9") }
	moving := func(c *clusterState, _ *holding) { c.moving = true }
	claimMoving := func(_ *clusterState, h *holding) {
		kube.SetAnnotation(h.claim, clusterctlv1.DeleteForMoveAnnotation, "")
	}
	moved := func(_ *clusterState, h *holding) { kube.SetAnnotation(h.address, ipam.MovedAnnotation, "") }
	used := func(_ *clusterState, h *holding) { h.used = true }
	unadopted := func(_ *clusterState, h *holding) { h.claim = aClaim(2*grace, false) }
	young := func(_ *clusterState, h *holding) { h.claim = aClaim(grace/2, false) }
	foreign := func(_ *clusterState, h *holding) { h.claim.SetLabels(nil) }
	noClaim := func(_ *clusterState, h *holding) { h.claim = nil }
	noAddress := func(_ *clusterState, h *holding) { h.address = nil }
	requestable := func(_ *clusterState, h *holding) { h.requestable = true }
	placed := func(_ *clusterState, h *holding) { h.placed = true }
	unbound := func(_ *clusterState, h *holding) { h.claim.Address = "" }
	failed := func(_ *clusterState, h *holding) { h.claim.Address, h.claim.Failure = "", "it is another's" }
	youngClaim := func(_ *clusterState, h *holding) { h.claim.SetCreationTimestamp(metav1.NewTime(now)) }
	recreated := func(_ *clusterState, h *holding) { kube.SetAnnotation(h.claim, ipam.RecreatedAnnotation, "10.0.0.1") }
	stray := func(_ *clusterState, h *holding) { h.claim, h.seen = nil, now.Add(-2*grace); ipam.Unprotect(h.address) }
	named := func(_ *clusterState, h *holding) { kube.SetAnnotation(h.address, ipam.ClusterNameAnnotation, "prod") }
	justSeen := func(_ *clusterState, h *holding) { h.seen = now.Add(-grace / 2) }
	justMade := func(_ *clusterState, h *holding) { h.address.SetCreationTimestamp(metav1.NewTime(now)) }
	foreignFinalizer := func(_ *clusterState, h *holding) { h.foreign = true }
	cools := func(_ *clusterState, h *holding) { h.coolDown.Lasts = time.Hour }
	short := func(_ *clusterState, h *holding) { h.coolDown.Lasts = time.Minute }
	over := func(_ *clusterState, h *holding) { h.coolDown.Over = true }
	cooling := func(_ *clusterState, h *holding) {
		ipam.CoolAddress(h.address, prod, now.Add(-2*time.Minute))
		if h.claim != nil {
			ipam.CoolClaim(h.claim, ipam.Machine{Kind: ipam.OfCluster, NamespacedName: types.NamespacedName{Namespace: "ns", Name: "prod"}}, now.Add(-2*time.Minute))
		}
	}
	claimProtected := func(_ *clusterState, h *holding) { h.claim.SetFinalizers([]string{ipam.InUseFinalizer}) }
	claimGoing := func(_ *clusterState, h *holding) { going(h.claim) }
	addressGoing := func(_ *clusterState, h *holding) { going(h.address) }
	unprotected := func(_ *clusterState, h *holding) { ipam.Unprotect(h.address) }

	for name, test := range map[string]struct {
		changes changes
		want    step
	}{
		"alive":                                  {nil, adopt},
		"alive, and paused":                      {changes{paused}, idle},
		"alive, paused, and unprotected":         {changes{paused, unprotected}, protect},
		"alive, and the claim is somebody's":     {changes{foreign}, idle},
		"alive, and the claim goes":              {changes{claimGoing}, idle},
		"alive, unprotected, the claim goes":     {changes{claimGoing, unprotected}, protect},
		"alive, and the claim is gone":           {changes{noClaim, requestable}, recreate},
		"alive, gone, and cannot be asked for":   {changes{noClaim}, protect},
		"alive, gone, and the address goes":      {changes{noClaim, requestable, addressGoing}, recreate},
		"alive, gone, the address is in the way": {changes{noClaim, requestable, placed, addressGoing}, protect},
		"alive, gone, and is to be placed":       {changes{noClaim, requestable, placed}, recreate},
		"alive, gone, and unprotected":           {changes{noClaim, requestable, unprotected}, protect},
		"alive, gone, and paused":                {changes{noClaim, requestable, paused}, idle},
		"going, and the claim is gone":           {changes{noClaim, requestable, deleting}, idle},
		"done, and the claim is gone":            {changes{noClaim, requestable, done}, release},
		"alive, and both are gone":               {changes{noClaim, noAddress, requestable}, recreate},
		"alive, both are gone for ever":          {changes{noClaim, noAddress}, report},
		"alive, the claim is held back":          {changes{claimGoing, claimProtected}, removeClaimFinalizer},
		"alive, held back, and unprotected":      {changes{claimGoing, claimProtected, unprotected}, protect},
		"alive, held back, the address is free":  {changes{claimGoing, claimProtected, unprotected, addressGoing}, idle},
		"alive, held back, and paused":           {changes{claimGoing, claimProtected, paused}, idle},
		"alive, recreated, not bound":            {changes{recreated, unbound}, idle},
		"alive, recreated, and bound":            {changes{recreated}, verify},
		"alive, asked for, and not bound":        {changes{unbound, noAddress}, idle},
		"alive, recreated in vain":               {changes{failed, requestable}, deleteFailed},
		"alive, recreated in vain just now":      {changes{failed, requestable, youngClaim}, report},
		"stray":                                  {changes{gone, stray}, deleteStray},
		"stray, beside another endpoint":         {changes{otherHost, stray}, deleteStray},
		"stray, seen just now":                   {changes{gone, stray, justSeen}, idle},
		"stray, made just now":                   {changes{gone, stray, justMade}, idle},
		"stray, and was an endpoint":             {changes{gone, stray, named}, idle},
		"stray, and a Cluster uses it":           {changes{gone, stray, used}, idle},
		"stray, and has moved":                   {changes{gone, stray, moved}, idle},
		"stray, and somebody holds it":           {changes{gone, stray, foreignFinalizer}, idle},
		"stray, and paused":                      {changes{gone, stray, paused}, idle},
		"stray, and the endpoint":                {changes{stray}, protect},
		"done, and cools":                        {changes{done, cools}, cool},
		"done, cools, and a Cluster uses it":     {changes{done, cools, used}, idle},
		"done, and the pool goes":                {changes{done, cools, over}, release},
		"gone, as this leader saw, and cools":    {changes{gone, departed, cools}, cool},
		"gone, cools, and a Cluster uses it":     {changes{gone, departed, cools, used}, idle},
		"gone, the claim goes, and cools":        {changes{gone, claimGoing, cools}, cool},
		"gone, the claim too, and cools":         {changes{gone, departed, noClaim, addressGoing, cools}, cool},
		"gone unseen, the claim too":             {changes{gone, noClaim, addressGoing, cools}, unprotect},
		"never stored, and would cool":           {changes{gone, unadopted, cools}, reap},
		"never stored, going, would cool":        {changes{gone, unadopted, claimGoing, cools}, unprotect},
		"gone, and has moved":                    {changes{gone, departed, moved, cools}, reap},
		"cools down":                             {changes{gone, departed, cools, cooling}, idle},
		"has cooled down":                        {changes{gone, short, cooling}, release},
		"has cooled down, without a claim":       {changes{gone, noClaim, short, cooling}, release},
		"has cooled down, a Cluster uses it":     {changes{gone, short, cooling, used}, idle},
		"has cooled down, and is paused":         {changes{gone, short, cooling, paused}, idle},
		"cools down, and the pool goes":          {changes{gone, cools, cooling, over}, release},
		"cools down, and is there again":         {changes{cools, cooling}, adopt},
		"going":                                  {changes{deleting}, idle},
		"done":                                   {changes{done}, release},
		"done, and paused":                       {changes{done, paused}, release},
		"done, and a Cluster uses it":            {changes{done, used}, idle},
		"done, and moved away":                   {changes{done, moving, moved}, idle},
		"moved away without the address":         {changes{moving}, markMoved},
		"the claim is moved away":                {changes{gone, claimMoving, moved}, idle},
		"another host":                           {changes{otherHost, unadopted}, reap},
		"another host, and a Cluster uses it":    {changes{otherHost, unadopted, used}, idle},
		"never stored":                           {changes{gone, unadopted}, reap},
		"never stored yet":                       {changes{gone, young}, idle},
		"never stored, its Cluster is paused":    {changes{gone, unadopted, paused}, idle},
		"gone, perhaps to be restored":           {changes{gone}, idle},
		"gone, as this leader saw":               {changes{gone, departed}, reap},
		"gone, and a Cluster uses it":            {changes{gone, departed, used}, idle},
		"gone, and the claim is somebody's":      {changes{gone, departed, foreign}, idle},
		"gone, and the claim goes":               {changes{gone, claimGoing}, unprotect},
		"gone, the claim goes, a Cluster uses":   {changes{gone, claimGoing, used}, idle},
		"gone, and the claim too":                {changes{gone, noClaim, addressGoing}, unprotect},
		"gone, and nobody frees the address":     {changes{gone, noClaim}, idle},
	} {
		t.Run(name, func(t *testing.T) {
			c := clusterState{holder: prod, exists: true, host: netip.MustParseAddr("10.0.0.1")}
			h := holding{claim: aClaim(2*grace, true), address: anAddress(), bound: aBinding(), seen: now.Add(-2 * grace)}
			for _, change := range test.changes {
				change(&c, &h)
			}

			if got, _ := decide(c, h, now, grace); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestClaimWaitsByTheLeadersOwnClock(t *testing.T) {
	h := holding{claim: aClaim(2*grace, false), address: anAddress(), seen: now.Add(-grace / 2)}

	got, wait := decide(clusterState{holder: prod}, h, now, grace)

	if got != idle || wait != grace/2 {
		t.Errorf("got %s after %s, want to wait until the leader has seen the claim for the grace period", got, wait)
	}
}

func TestClaimsOfAnEndpointNameTheirVSphereCluster(t *testing.T) {
	claim := aClaim(0, true).Object
	if got := clusterOfClaim(claim); got != "prod" {
		t.Errorf("got %q by its annotation", got)
	}
	// clusterctl replaces all annotations when it has moved an object.
	claim.SetAnnotations(nil)
	claim.SetName("prod.r2")
	if got := clusterOfClaim(claim); got != "prod" {
		t.Errorf("got %q by its label", got)
	}
	claim.SetName("dev")
	if got := clusterOfClaim(claim); got != "" {
		t.Errorf("got %q, want none: the label is that of another", got)
	}
	claim.SetName("prod")
	kube.SetAnnotation(claim, ipam.MachineNameAnnotation, "prod")
	if got := clusterOfClaim(claim); got != "" {
		t.Errorf("got %q, want none: it is a machine's", got)
	}
}
