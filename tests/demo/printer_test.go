package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestOutputIsPlainUnlessItGoesToATerminal(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := newPrinter(file)
	p.heading("title")
	p.check("checked %d", 1)
	p.quote("denied")
	content, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(string(content), '\x1b') || !strings.Contains(string(content), "\ntitle\n  ok  checked 1\n") {
		t.Errorf("got %q, want plain text", content)
	}
}

func TestProgressWithinAStepDoesNotTearItsLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &printer{out: &out}
	done := p.begin("quick")
	done()
	done = p.begin("long")
	if _, err := p.Write([]byte("building etcd ...\nbuilding etcd: done\n")); err != nil {
		t.Fatal(err)
	}
	done()
	want := `^  quick \.\.\. \S+
  long \.\.\.
    building etcd \.\.\.
    building etcd: done
  long \.\.\. \S+
$`
	if !regexp.MustCompile(want).MatchString(out.String()) {
		t.Errorf("got\n%s\nwant a match of\n%s", out.String(), want)
	}
}
