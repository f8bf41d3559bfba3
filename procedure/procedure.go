// Package procedure has what changes a cluster in steps is made of: a plan, the steps, what
// stops them, the waits between, and the rights that they need. A step reads anew what there
// is, so that a procedure may be stopped and begun again at any point.
package procedure

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Stop is the error for what keeps a procedure from going on.
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

// Step is one step of a procedure.
type Step struct {
	Name string
	// Text says what it does, and Objects what there is to do for it now.
	Text    string
	Objects []string
	// Always says that it is done whatever there is.
	Always bool
	// AlreadyDone counts what it has done, or others have, where that can be told.
	AlreadyDone int
	// Do does it. It looks again at what there is.
	Do func(context.Context) error
}

// Plan is what would be done.
type Plan struct {
	Steps []Step
	// Stops keep it from being done.
	Stops []*Stop
	// Notes are what is left to the user.
	Notes []string
}

// Report tells of what is done.
type Report func(format string, args ...any)

// Run does what was planned. The plan's objects are those of the moment when it was made;
// each step looks again.
func (p *Plan) Run(ctx context.Context, report Report) error {
	if len(p.Stops) > 0 {
		return p.Stops[0]
	}
	for i, step := range p.Steps {
		if err := step.Do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.Name, err)
		}
		report("step %d of %d is done: %s", i+1, len(p.Steps), step.Name)
	}
	return nil
}

// Look tells what is left, and for how long it may be waited for, since the wait began.
type Look func(context.Context) (left []string, patience time.Duration, err error)

// Until looks until nothing is left, for as long as look has patience. Then it is a Stop.
func Until(ctx context.Context, report Report, look Look) error {
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
			report("%s", text)
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

// Object is an object with the name of its kind.
type Object struct {
	client.Object
	Kind string
}

// String names it for people.
func (o Object) String() string { return NameOf(o.Kind, o) }

// NameOf names an object of this kind for people.
func NameOf(kind string, o client.Object) string {
	if o.GetNamespace() == "" {
		return fmt.Sprintf("%s %s", kind, o.GetName())
	}
	return fmt.Sprintf("%s %s/%s", kind, o.GetNamespace(), o.GetName())
}
