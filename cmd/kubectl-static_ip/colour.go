package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"
)

// What --color may be.
const (
	colorAuto   = "auto"
	colorAlways = "always"
	colorNever  = "never"
)

// colour is a number of the escape sequences of terminals. It says nothing that the text
// beside it does not.
type colour int

const (
	plain colour = iota
	red
	yellow
	green
)

const reset = "\x1b[0m"

var sequences = map[colour]string{plain: reset, red: "\x1b[31m", yellow: "\x1b[33m", green: "\x1b[32m"}

// chooseColours finds out whether there are colours.
func (o *options) chooseColours(lookup func(string) (string, bool)) error {
	switch o.color {
	case colorAuto:
		o.colours = isTerminal(o.streams.Out, lookup)
	case colorAlways:
		o.colours = true
	case colorNever:
		o.colours = false
	default:
		return exit{exitUsage, fmt.Errorf("--color %q is none of %s, %s and %s", o.color, colorAuto, colorAlways, colorNever)}
	}
	return nil
}

// isTerminal tells whether somebody looks at a terminal that has colours, and wants them
// (https://no-color.org).
func isTerminal(out io.Writer, lookup func(string) (string, bool)) bool {
	if text, _ := lookup("NO_COLOR"); text != "" {
		return false
	}
	kind, isSet := lookup("TERM")
	if kind == "dumb" || runtime.GOOS == "windows" && !isSet {
		return false
	}
	file, isFile := out.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd()))
}

// paint gives a text a colour, if there are any.
func (o *options) paint(c colour, text string) string {
	if !o.colours || c == plain {
		return text
	}
	return sequences[c] + text + reset
}

// painted is a text, as that of a cell, that has a colour.
type painted struct {
	text   string
	colour colour
}

// firstMark and the runes after it, of an area that no text uses, stand for the sequences
// of colours while the columns are aligned. All cells of a column have two, so that they
// take as much place in each.
const firstMark = '\uE100'

// marked is the text between two marks.
func (p painted) marked() string {
	return string(firstMark+rune(p.colour)) + unmarked(oneLine(p.text)) + string(firstMark)
}

// unmarked is a text without marks, which others may have written.
func unmarked(text string) string {
	return strings.Map(func(r rune) rune {
		if _, isMark := sequences[colour(r-firstMark)]; isMark {
			return -1
		}
		return r
	}, text)
}

// tables is where tables are written to, whose cells may be marked.
func (o *options) tables() io.Writer {
	if o.colours {
		return painter{o.streams.Out}
	}
	return o.streams.Out
}

// painter puts the sequences of colours in place of their marks.
type painter struct{ out io.Writer }

var marks = func() *strings.Replacer {
	var pairs []string
	for c, sequence := range sequences {
		pairs = append(pairs, string(firstMark+rune(c)), sequence)
	}
	return strings.NewReplacer(pairs...)
}()

// Write implements io.Writer. No cell is written in parts.
func (p painter) Write(text []byte) (int, error) {
	if _, err := marks.WriteString(p.out, string(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}
