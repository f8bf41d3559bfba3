// Package adoption is the change from the static IP adapter for CAPV to capv-static-ip, step by
// step, as docs/adapter.md says: what has to be changed first, who may stop when, what is
// adopted and what waits, and what of the adapter can go. Each step reads anew what there is,
// so that it may be stopped and begun again at any point. No VM is touched, no device of a
// machine that has its address is written, and no claim of an address in use is deleted.
//
// change.go, claims.go and waiting.go are pure functions on what state.go has read; the rest
// writes.
package adoption

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/installation"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

// Adoption is that of one cluster.
type Adoption struct {
	Client client.Client
	// Source reads all namespaces, with what makes machines.
	Source inventory.Source
	// Adapter is a Deployment of the adapter that is not called as its manifests have it,
	// without a name if there is none.
	Adapter types.NamespacedName
	// Keep leaves the adapter's objects, stopped.
	Keep bool
	// OwnerStopped says that who installed the adapter does not bring it back.
	OwnerStopped bool
	// Timeout bounds each wait.
	Timeout time.Duration
	// Report tells of what is done.
	Report procedure.Report
}

// Plan reads the cluster and plans. It writes nothing.
func (a *Adoption) Plan(ctx context.Context) (*procedure.Plan, error) {
	s, err := a.read(ctx)
	if err != nil {
		return nil, err
	}
	p := &procedure.Plan{Steps: a.steps(s), Notes: a.notes(s)}
	p.Stops, err = a.stops(ctx, s)
	return p, err
}

// Run does what was planned.
func (a *Adoption) Run(ctx context.Context, p *procedure.Plan) error { return p.Run(ctx, a.Report) }

func (a *Adoption) steps(s *state) []procedure.Step {
	steps := []procedure.Step{
		{
			Name: "change", Text: "for you: change what asks for addresses in a way that capv-static-ip does not keep",
			Objects: s.changes(), Do: a.changed,
		},
		{
			Name: "stop", Text: "stop the adapter, and see that no Pod of it runs and nobody renews its lease; new machines wait in CAPV from now on",
			Objects: append(s.running(), s.named(s.namesake)...), Do: a.stop,
		},
		{
			Name: "install", Text: "see that capv-static-ip is installed; new machines are stored with their addresses from then on",
			Objects: s.missing(), Do: a.installed,
		},
		{
			Name: "adopt", Text: "wait until each machine has the claim of its address adopted, and what waits is given its address",
			Objects: s.unadopted(), AlreadyDone: s.adopted(), Do: a.adopt,
		},
		{
			Name: "owners", Text: "name the owners of claims that stay as they are in a version that is served, so that they are collected with them",
			Objects: namesOf(s.stale()), Do: a.nameOwners,
		},
		{
			Name: "audit", Text: "audit the addresses, by the checks " + strings.Join(checkNames(), ", "),
			Always: true, Do: a.audit,
		},
	}
	if a.Keep {
		return steps
	}
	return append(steps, procedure.Step{
		Name: "delete", Text: "delete what is the adapter's, object by object; not its Namespace, in which CAPV may be",
		Objects: s.named(s.belongings), Do: a.deleteAdapter,
	})
}

// stops are what keeps the change from beginning.
func (a *Adoption) stops(ctx context.Context, s *state) ([]*procedure.Stop, error) {
	var stops []*procedure.Stop
	if len(s.mistaken) > 0 {
		stops = append(stops, &procedure.Stop{What: "these are not the adapter's", Because: s.mistaken, Next: "name the adapter's Deployment with --adapter"})
	}
	if stop := s.unchanged(); stop != nil {
		// The plan has shown them in its step.
		stops = append(stops, &procedure.Stop{What: stop.What + ", see step change", Next: stop.Next})
	}
	if !a.OwnerStopped {
		for _, owner := range installation.MakersOf(s.installed()) {
			stops = append(stops, stopOf(owner))
		}
	}
	missing, err := a.missingRights(ctx, s)
	if err != nil {
		return nil, err
	}
	if missing != nil {
		stops = append(stops, missing)
	}
	return stops, nil
}

// stopOf is the stop for who installed the adapter, and may start it again.
func stopOf(owner installation.Owner) *procedure.Stop {
	stop := &procedure.Stop{What: "the adapter was installed by " + owner.Name, Next: "run this again with --owner-stopped"}
	if owner.Stop != "" {
		stop.What += ", which would start it again"
		stop.Next = owner.Stop + ", then run this again with --owner-stopped"
	}
	if owner.After != "" {
		stop.Next += "; at the end: " + owner.After + ", but look first whether that deletes the Namespace, in which CAPV may be"
	}
	return stop
}

// unchanged is the stop for what has to be changed first, nil if that is nothing.
func (s *state) unchanged() *procedure.Stop {
	changes := s.changes()
	if len(changes) == 0 {
		return nil
	}
	return &procedure.Stop{
		What: "some would wait for ever without the adapter", Because: changes,
		Next: "change them as docs/adapter.md says, then run this again; the adapter can run until then",
	}
}

func (a *Adoption) changed(ctx context.Context) error {
	s, err := a.read(ctx)
	if err != nil {
		return err
	}
	if stop := s.unchanged(); stop != nil {
		return stop
	}
	return nil
}

// installed sees that we are there. Whether we work shows in what is adopted.
func (a *Adoption) installed(ctx context.Context) error {
	s, err := a.read(ctx)
	if err != nil {
		return err
	}
	if missing := s.missing(); len(missing) > 0 {
		return &procedure.Stop{
			What: "the adapter is stopped, and nobody serves machines now", Because: missing,
			Next: "install capv-static-ip, see docs/install.md, and run this again; or go back: " + s.startAgain(),
		}
	}
	return nil
}

// adopt waits for the manager, and makes way for it where a claim of the adapter would be in
// its way.
func (a *Adoption) adopt(ctx context.Context) error {
	err := procedure.Until(ctx, a.Report, func(ctx context.Context) ([]string, time.Duration, error) {
		s, err := a.readStopped(ctx)
		if err != nil {
			return nil, 0, err
		}
		return s.unadopted(), a.Timeout, a.makeWay(ctx, s)
	})
	if stop := (&procedure.Stop{}); errors.As(err, &stop) && stop.Next == "" {
		stop.Next = "see whether capv-static-ip works (kubectl static-ip check), and why a machine waits (kubectl static-ip explain vspheremachine/NAME); then run this again"
	}
	return err
}

// checks are those that tell whether an address is where it should be.
func checks() []inventory.CheckID {
	return []inventory.CheckID{inventory.AddressTwice, inventory.ProtectedNobody, inventory.NotBound, inventory.AdapterClaim}
}

func checkNames() []string {
	var names []string
	for _, check := range checks() {
		names = append(names, string(check))
	}
	return names
}

// audit looks for what is wrong with addresses, before what could have been of help is gone.
func (a *Adoption) audit(ctx context.Context) error {
	report, err := a.Source.Audit(ctx, inventory.OutsideLimits(), inventory.SecondLook, checks()...)
	if err != nil {
		return err
	}
	var wrong []string
	for _, f := range report.Findings {
		wrong = append(wrong, fmt.Sprintf("%s %s %s: %s", f.Check, f.Object, f.Text, f.Remedy))
	}
	for _, left := range report.LeftOut {
		wrong = append(wrong, left.String())
	}
	if len(wrong) == 0 {
		return nil
	}
	return &procedure.Stop{What: "the audit finds", Because: wrong, Next: "mend that, then run this again; the adapter stays as it is, stopped"}
}

// notes are what is left to the user.
func (a *Adoption) notes(s *state) []string {
	notes := slices.Concat(s.claimNotes(), s.machineNotes(), s.changeNotes())
	switch {
	case len(s.adapters) > 0:
	case a.Adapter.Name != "":
		notes = append(notes, fmt.Sprintf("there is no Deployment %s, and none %s", a.Adapter, adapterName))
	default:
		notes = append(notes, fmt.Sprintf("there is no Deployment %s: if the adapter runs by another name, say --adapter=NAMESPACE/NAME", adapterName))
	}
	for _, d := range s.adapters {
		notes = append(notes, fmt.Sprintf("do not delete the adapter by its manifest: that has Namespace %s in it, in which CAPV may be, and ClusterRole %s, which is one of ours, too; "+
			"the step delete leaves the Namespace, and that role once it is ours", d.Namespace, adapterPrefix+namesakeSuffix))
	}
	return notes
}
