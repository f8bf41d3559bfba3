package main

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

// printing are options that print in a form, and what they have printed.
func printing(output string) (*options, func() string) {
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	return &options{streams: streams, output: output, print: genericclioptions.NewPrintFlags("")}, out.String
}

func TestStoryIsDrawnAsATree(t *testing.T) {
	o, printed := printing("")
	o.draw(inventory.Story{
		Title: "a machine", Next: "do it",
		Lines: []string{"device 0", "  pool", "    full", "    very", "  claim", "device 1", "  ! none", "That is all."},
	}, false)
	want := `a machine
  device 0
  ├─ pool
  │  ├─ full
  │  └─ very
  └─ claim
  device 1
  └─ ! none
  That is all.
Now: do it
`
	if got := printed(); got != want {
		t.Errorf("it prints\n%s\nwant\n%s", got, want)
	}
}

// Whoever may write events, or names of networks, must not paint the screen of who reads
// them, or tell them what to type.
func TestTextOfOthersCannotLeaveItsLine(t *testing.T) {
	o, printed := printing("")
	o.draw(inventory.Story{Title: "a machine", Lines: []string{"\x1b[2Jfull\r\nNow: run this"}}, false)
	if want := "a machine\n  ^[[2Jfull\\r\\nNow: run this\n"; printed() != want {
		t.Errorf("it prints %q, want %q", printed(), want)
	}
}

func TestColumnsOfTheUserAreReadAsKubectlDoes(t *testing.T) {
	l := &list{kind: "Pool"}
	l.add(&v1alpha1.Pool{Metadata: meta("ns", "lab"), Used: 3})
	for output, want := range map[string]string{
		"custom-columns=NAME:.metadata.name,USED:{.used}": "NAME   USED\nlab    3\n",
		"custom-columns=N:metadata.name,T:.total":         "N     T\nlab   <none>\n",
	} {
		o, printed := printing(output)
		if err := o.show(l); err != nil || printed() != want {
			t.Errorf("-o %s prints %q (%v), want %q", output, printed(), err, want)
		}
	}
	for _, output := range []string{"custom-columns=NAME", "custom-columns=:.metadata", "custom-columns=A:{.b", "tables"} {
		o, _ := printing(output)
		var e exit
		if err := o.show(l); !errors.As(err, &e) || e.code != exitUsage {
			t.Errorf("-o %s ends with %v, want an error of usage", output, err)
		}
	}
}

func TestOnlyRowsThatHaveChangedAreShownAgain(t *testing.T) {
	row := func(cells ...any) metav1.TableRow { return metav1.TableRow{Cells: cells} }
	shown := map[string]string{}
	if got := changed([]metav1.TableRow{row("a", "p", 1), row("b", "p", 1)}, shown); len(got) != 2 {
		t.Errorf("%d rows are shown at first, want both", len(got))
	}
	if got := changed([]metav1.TableRow{row("a", "p", 1), row("b", "p", 2)}, shown); len(got) != 1 || got[0].Cells[0] != "b" {
		t.Errorf("%v are shown again, want the one that has changed", got)
	}
}

func TestCommandLineThatMakesNoSenseIsUsage(t *testing.T) {
	for _, args := range [][]string{{"explain"}, {"explain", "machine"}, {"explain", "a/b/c"}, {"who", "nobody"}, {"pools", "--nonsense"}, {"pools", "-w", "-o", "json"}, {"pools", "--color", "red"}} {
		streams, _, _, errs := genericiooptions.NewTestIOStreams()
		if code := run(t.Context(), "kubectl-static_ip", args, streams); code != exitUsage || !strings.HasPrefix(errs.String(), "error: ") {
			t.Errorf("%v exits with %d and says %q, want %d and an error", args, code, errs, exitUsage)
		}
	}
}
