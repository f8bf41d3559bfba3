package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

var escape = regexp.MustCompile("\x1b\\[[0-9;]*m")

// aTable has a column with colours between two others, and one at the end.
func aTable() *list {
	l := &list{kind: "Pool", columns: []column{{name: "STATE"}, {name: "NAME"}, {name: "STATUS"}, {name: "MORE"}}}
	l.add(&v1alpha1.Pool{}, painted{"ok", green}, "a", painted{"Exhausted: 1 owner waits", red}, "x")
	l.add(&v1alpha1.Pool{}, painted{"failed", red}, "a-longer-name", painted{"OK", green}, "y")
	l.add(&v1alpha1.Pool{}, painted{"-", plain}, "b", painted{}, "z")
	return l
}

func TestColumnsStayAlignedInColour(t *testing.T) {
	for _, bare := range []bool{false, true} {
		without, printed := printing("")
		without.noHeaders = bare
		if err := without.show(aTable()); err != nil {
			t.Fatal(err)
		}
		with, coloured := printing("")
		with.colours, with.noHeaders = true, bare
		if err := with.show(aTable()); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(printed(), "\x1b") || !strings.Contains(coloured(), "\x1b[31mExhausted: 1 owner waits\x1b[0m") {
			t.Fatalf("got\n%q and\n%q, want colours in the second alone", printed(), coloured())
		}
		if got := escape.ReplaceAllString(coloured(), ""); got != printed() {
			t.Errorf("in colour it is\n%s\nand without\n%s", got, printed())
		}
	}
}

// Names and networks are others' texts.
func TestNobodyElsePaints(t *testing.T) {
	theirs := "\x1b[31mred" + string(firstMark+rune(red)) + "x"
	for _, colours := range []bool{false, true} {
		o, printed := printing("")
		o.colours = colours
		l := &list{kind: "Pool", columns: []column{{name: "NAME"}, {name: "STATUS"}}}
		l.add(&v1alpha1.Pool{}, theirs, painted{theirs, plain})
		if err := o.show(l); err != nil || strings.Contains(printed(), "\x1b[31m") {
			t.Errorf("with colours %t it prints %q (%v)", colours, printed(), err)
		}
	}
}

func TestMarksAreInColour(t *testing.T) {
	for colours, want := range map[bool]string{false: "a\n  ! full\n", true: "a\n  \x1b[31m!\x1b[0m full\n"} {
		o, printed := printing("")
		o.colours = colours
		o.draw(inventory.Story{Title: "a", Lines: []string{"! full"}}, false)
		if printed() != want {
			t.Errorf("with colours %t it prints %q, want %q", colours, printed(), want)
		}
	}
}

func TestColoursAreForTerminals(t *testing.T) {
	terminal := openTerminal(t)
	_, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	none := map[string]string{}
	for name, test := range map[string]struct {
		color    string
		terminal bool
		env      map[string]string
		want     bool
	}{
		"a terminal":                      {"auto", true, none, true},
		"a terminal without colours":      {"auto", true, map[string]string{"TERM": "dumb"}, false},
		"somebody who wants none":         {"auto", true, map[string]string{"NO_COLOR": "1"}, false},
		"somebody who said nothing of it": {"auto", true, map[string]string{"NO_COLOR": "", "TERM": "xterm"}, true},
		"a pipe":                          {"auto", false, none, false},
		"a pipe, always":                  {"always", false, map[string]string{"NO_COLOR": "1"}, true},
		"a terminal, never":               {"never", true, none, false},
	} {
		o := &options{color: test.color, streams: genericiooptions.IOStreams{Out: pipe}}
		if test.terminal {
			o.streams.Out = terminal
		}
		err := o.chooseColours(func(key string) (string, bool) {
			value, isSet := test.env[key]
			return value, isSet
		})
		if err != nil || o.colours != test.want {
			t.Errorf("for %s there are colours: %t (%v), want %t", name, o.colours, err, test.want)
		}
	}
	if err := (&options{color: "red"}).chooseColours(os.LookupEnv); err == nil {
		t.Error("--color=red is taken")
	}
}
