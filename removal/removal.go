// Package removal takes capv-static-ip out of a cluster, step by step, as docs/uninstall.md
// says. Each step reads anew what there is, so that it may be stopped and begun again at
// any point. No deletion hangs in the end, and no address of a machine is freed.
package removal

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
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
	Report func(format string, args ...any)
}

// Stop is the error for what keeps the removal from going on.
type Stop struct {
	// What is the reason, and Because what it is about.
	What    string
	Because []string
	// Next is what to do before it is run again.
	Next string
}

// Error implements error.
func (s *Stop) Error() string {
	text := s.What
	for _, line := range s.Because {
		text += "\n  " + line
	}
	if s.Next != "" {
		text += "\nNow: " + s.Next
	}
	return text
}

// Step is one step of the removal.
type Step struct {
	Name string
	// Text says what it does, and Objects what there is to do for it now.
	Text    string
	Objects []string

	do func(context.Context) error
}

// Plan is what would be done.
type Plan struct {
	Steps []Step
	// Stops keep it from being done.
	Stops []*Stop
	// Notes are what is left to the user.
	Notes []string
	// Holding counts the machines and VSphereClusters that hold addresses of ours.
	Holding int
}

// Plan reads the cluster and plans. It writes nothing.
func (r *Removal) Plan(ctx context.Context) (*Plan, error) {
	s, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Steps: r.steps(s), Notes: r.notes(s), Holding: len(s.holders())}
	p.Stops, err = r.stops(ctx, s)
	return p, err
}

// Run does what was planned. The plan's objects are those of the moment when it was
// made; each step looks again.
func (r *Removal) Run(ctx context.Context, p *Plan) error {
	if len(p.Stops) > 0 {
		return p.Stops[0]
	}
	for i, step := range p.Steps {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.Name, err)
		}
		r.Report("step %d of %d is done: %s", i+1, len(p.Steps), step.Name)
	}
	return nil
}

func (r *Removal) steps(s *state) []Step {
	steps := []Step{
		{
			Name: "protection", Text: "delete the policies of deploy/protection, which keep everybody from all of this",
			Objects: s.named(s.protection), do: func(ctx context.Context) error { return r.deleteAll(ctx, (*state).protectionObjects) },
		},
		{
			Name: "webhooks", Text: "delete the webhook configurations: from now on, machines are stored as they are",
			Objects: s.named(s.webhooks), do: func(ctx context.Context) error { return r.deleteAll(ctx, (*state).webhookObjects) },
		},
		{
			Name: "wait", Text: "wait until no machine, address or claim is ours any more; the manager still runs",
			Objects: r.unfinished(s), do: r.wait,
		},
		{
			Name: "manager", Text: "stop the Deployment, see that no Pod of it runs, and look once more",
			Objects: s.running(), do: r.stop,
		},
	}
	if r.Mode == Keep {
		steps[2].Text = "wait until every address has its claim, and every claim its machine; the manager still runs"
		steps = append(steps, Step{
			Name: "finalizers", Text: "take our finalizers off; no address is freed by it",
			Objects: s.named(s.finalized()), do: r.strip,
		})
	}
	return append(steps, Step{Name: "rest", Text: "delete the rest", Objects: s.named(s.rest), do: r.deleteRest})
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
	err := r.until(ctx, func(ctx context.Context) (left []string, patience time.Duration, err error) {
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

// until looks until nothing is left, for as long as look has patience.
func (r *Removal) until(ctx context.Context, look func(context.Context) (left []string, patience time.Duration, err error)) error {
	// A look reads the whole cluster: it takes a sixth of the time at the most.
	const pause, share = time.Second, 5
	began, told := time.Now(), ""
	for {
		looked := time.Now()
		left, patience, err := look(ctx)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Since(began) >= patience {
			return &Stop{What: fmt.Sprintf("after %s there still are", patience), Because: left}
		}
		if text := fmt.Sprintf("waiting for %d: %s", len(left), few(left)); text != told {
			r.Report("%s", text)
			told = text
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(pause, share*time.Since(looked))):
		}
	}
}

// few are the first of some texts.
func few(texts []string) string {
	const most = 3
	if len(texts) > most {
		return strings.Join(texts[:most], ", ") + " …"
	}
	return strings.Join(texts, ", ")
}
