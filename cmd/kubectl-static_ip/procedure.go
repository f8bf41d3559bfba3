package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/procedure"
)

// planned are the flags of a command that does what it has planned only when it is told to.
type planned struct{ dryRun, yes bool }

func (p *planned) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "Print the plan, and do nothing: so it is without --yes.")
	cmd.Flags().BoolVar(&p.yes, "yes", false, "Do it.")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "yes")
}

// onlyPlanned says that nothing more was asked for.
func (o *options) onlyPlanned() {
	fmt.Fprintln(o.streams.ErrOut, "Nothing was changed: say --yes to do it.")
}

// showPlan prints the steps with what there is to do for them now.
func (o *options) showPlan(plan *procedure.Plan) error {
	l := &list{kind: "Step"}
	for _, step := range plan.Steps {
		l.add(&v1alpha1.Step{Metadata: meta("", step.Name), Does: step.Text, Objects: step.Objects, AlreadyDone: step.AlreadyDone})
	}
	if !o.isTable() {
		return o.show(l)
	}
	for i, step := range plan.Steps {
		fmt.Fprintf(o.streams.Out, "%d. %s (%s)\n", i+1, step.Text, step.Name)
		for _, object := range step.Objects {
			fmt.Fprintf(o.streams.Out, "     %s\n", oneLine(object))
		}
		switch {
		case step.AlreadyDone > 0:
			fmt.Fprintf(o.streams.Out, "     done already: %d\n", step.AlreadyDone)
		case len(step.Objects) == 0 && !step.Always:
			fmt.Fprintln(o.streams.Out, "     nothing to do")
		}
	}
	return nil
}

// stopped says what keeps a plan from being done, and tells whether anything does.
func (o *options) stopped(plan *procedure.Plan) bool {
	for _, stop := range plan.Stops {
		fmt.Fprintln(o.streams.ErrOut, "stop:", stop)
	}
	return len(plan.Stops) > 0
}

func (o *options) showNotes(plan *procedure.Plan) {
	for _, note := range plan.Notes {
		fmt.Fprintln(o.streams.ErrOut, "note:", oneLine(note))
	}
}

// report tells of what is done.
func (o *options) report(format string, args ...any) {
	fmt.Fprintln(o.streams.ErrOut, oneLine(fmt.Sprintf(format, args...)))
}

// agreed asks, and tells whether the answer was yes.
func (o *options) agreed() bool {
	fmt.Fprint(o.streams.ErrOut, "Do this? [y/N] ")
	answer, err := bufio.NewReader(o.streams.In).ReadString('\n')
	if err != nil {
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
