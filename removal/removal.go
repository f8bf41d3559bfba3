// Package removal takes capv-static-ip out of a cluster, step by step, as docs/uninstall.md
// says. Each step reads anew what there is, so that it may be stopped and begun again at
// any point. No deletion hangs in the end, and no address of a machine is freed.
package removal

import (
	"context"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/procedure"
)

// Mode is what becomes of the machines.
type Mode int

// The modes.
const (
	// Drain waits until no machine holds an address of ours. The manager runs until then.
	Drain Mode = iota
	// Keep leaves machines and addresses as they are, and takes our finalizers off. From
	// then on, the garbage collector releases the addresses.
	Keep
)

// Removal takes capv-static-ip out of one cluster.
type Removal struct {
	Client client.Client
	// Source reads all namespaces.
	Source inventory.Source
	Mode   Mode
	// Timeout bounds each wait.
	Timeout time.Duration
	// Settle bounds the wait for what others finish by themselves when the manager is
	// stopped.
	Settle time.Duration
	// OwnerStopped says that who installed us brings nothing back.
	OwnerStopped bool
	// Report tells of what is done.
	Report procedure.Report
}

// Stop is the error for what keeps the removal from going on.
type Stop = procedure.Stop

// Step is one step of the removal.
type Step = procedure.Step

// Plan is what would be done.
type Plan struct {
	procedure.Plan
	// Holding counts the machines and VSphereClusters that hold addresses of ours.
	Holding int
}

// Plan reads the cluster and plans. It writes nothing.
func (r *Removal) Plan(ctx context.Context) (*Plan, error) {
	s, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Plan: procedure.Plan{Steps: r.steps(s), Notes: r.notes(s)}, Holding: len(s.holders())}
	p.Stops, err = r.stops(ctx, s)
	return p, err
}

// Run does what was planned.
func (r *Removal) Run(ctx context.Context, p *Plan) error { return p.Run(ctx, r.Report) }

func (r *Removal) steps(s *state) []Step {
	steps := []Step{
		{
			Name: "protection", Text: "delete the policies of deploy/protection, which keep everybody from all of this",
			Objects: s.named(s.protection), Do: func(ctx context.Context) error { return r.deleteAll(ctx, (*state).protectionObjects) },
		},
		{
			Name: "webhooks", Text: "delete the webhook configurations: from now on, machines are stored as they are",
			Objects: s.named(s.webhooks), Do: func(ctx context.Context) error { return r.deleteAll(ctx, (*state).webhookObjects) },
		},
		{
			Name: "wait", Text: "wait until no machine, address or claim is ours any more; the manager still runs",
			Objects: r.unfinished(s), Do: r.wait,
		},
		{
			Name: "manager", Text: "stop the Deployment, see that no Pod of it runs, and look once more",
			Objects: s.running(), Do: r.stop,
		},
	}
	if r.Mode == Keep {
		steps[2].Text = "wait until every address has its claim, and every claim its machine; the manager still runs"
		steps = append(steps, Step{
			Name: "finalizers", Text: "take our finalizers off; no address is freed by it",
			Objects: s.named(s.finalized()), Do: r.strip,
		})
	}
	return append(steps, Step{Name: "rest", Text: "delete the rest", Objects: s.named(s.rest), Do: r.deleteRest})
}

// unfinished are the objects that the third step waits for.
func (r *Removal) unfinished(s *state) []string {
	if r.Mode == Keep {
		if s.isStopped() {
			return s.between()
		}
		return append(s.between(), s.waiting()...)
	}
	return append(s.named(s.held()), s.waiting()...)
}

// wait waits for the manager to finish what it has begun. Where it does not run, nobody
// will.
func (r *Removal) wait(ctx context.Context) error {
	err := procedure.Until(ctx, r.Report, func(ctx context.Context) (left []string, patience time.Duration, err error) {
		s, err := r.read(ctx)
		if err != nil {
			return nil, 0, err
		}
		if s.isStopped() {
			return r.unfinished(s), r.Settle, nil
		}
		return r.unfinished(s), r.Timeout, nil
	})
	stop, ok := err.(*Stop) //nolint:errorlint // it is never wrapped there
	if !ok {
		return err
	}
	s, err := r.read(ctx)
	if err != nil {
		return err
	}
	stop.Next = s.startAgain()
	if !s.isStopped() {
		stop.Next = r.patience()
	}
	return stop
}

// patience is what to do about what the manager has not finished in time.
func (r *Removal) patience() string {
	if r.Mode == Drain {
		return "roll the machines over to templates with another source of addresses, and run this again, with a longer --timeout; " +
			"endpoints are held until their Clusters are gone: to keep these, use --keep-machines"
	}
	return "wait while machines are created or deleted; replace machines whose claims or addresses stay in this list; end a cool-down on its pool " +
		"(annotation capv-static-ip.dev/reuse-after=0s); then run this again"
}
