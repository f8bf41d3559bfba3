package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// printer writes what people read. On a terminal it uses some bold and colour,
// elsewhere none.
type printer struct {
	mu     sync.Mutex
	out    io.Writer
	styled bool
	// open is set while the last line waits for how long its step took.
	open bool
}

// Styles of text, by their ANSI codes.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
)

func newPrinter(file *os.File) *printer {
	info, err := file.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &printer{out: file, styled: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p *printer) style(code, text string) string {
	if !p.styled || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p *printer) print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
	fmt.Fprintln(p.out, strings.TrimRight(line, " "))
}

func (p *printer) endLine() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}

func (p *printer) blank() { p.print("") }

func (p *printer) heading(title string) {
	p.blank()
	p.print(p.style(bold, title))
}

func (p *printer) say(format string, args ...any) { p.print("  " + fmt.Sprintf(format, args...)) }

// check says what was looked at and found as it should be.
func (p *printer) check(format string, args ...any) {
	p.print("  " + p.style(green, "ok") + "  " + fmt.Sprintf(format, args...))
}

func (p *printer) good(format string, args ...any) {
	p.print(p.style(green, fmt.Sprintf(format, args...)))
}

// quote shows a text exactly as users read it.
func (p *printer) quote(text string) {
	p.blank()
	p.print("      " + p.style(bold, text))
	p.blank()
}

func (p *printer) failure(err error) {
	p.blank()
	p.print(p.style(red, "FAILED: ") + err.Error())
}

// begin announces a step that takes long, and returns what says how long it took.
func (p *printer) begin(title string) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
	fmt.Fprintf(p.out, "  %s ...", title)
	p.open = true
	start := time.Now()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.open {
			fmt.Fprintf(p.out, "  %s ...", title)
		}
		p.open = false
		fmt.Fprintf(p.out, " %s\n", p.style(dim, round(time.Since(start)).String()))
	}
}

// Write takes the progress of steps within a step, whole lines each.
func (p *printer) Write(content []byte) (int, error) {
	for line := range bytes.Lines(content) {
		p.print("    " + p.style(dim, strings.TrimRight(string(line), "\n")))
	}
	return len(content), nil
}

// columns are the widths of the table; what is wider pushes the rest.
var columns = []int{28, 16, 12, 25}

func (p *printer) tableHead() {
	p.print("  " + p.style(dim, cells("MACHINE", "ADDRESS", "GATEWAY", "NAME SERVERS", "STORED AFTER")))
}

func (p *printer) tableRow(texts ...string) { p.print("  " + cells(texts...)) }

func cells(texts ...string) string {
	var line strings.Builder
	for i, text := range texts {
		if i < len(columns) {
			text = fmt.Sprintf("%-*s ", columns[i], text)
		}
		line.WriteString(text)
	}
	return line.String()
}

// round drops the digits of a duration that nobody reads.
func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
