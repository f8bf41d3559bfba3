package docs

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, name string) Page {
	t.Helper()
	page, err := Read(root, name)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func section(t *testing.T, page Page, title string) string {
	t.Helper()
	text, found := page.Section(title)
	if !found {
		t.Fatalf("%s has no section %q", page.Path, title)
	}
	return text
}

var quoted = regexp.MustCompile("^(?:[a-z, ]+ )?`([^`]+)`")

// names are what stands in backticks at the beginning of the rows of a table.
func names(text string) []string {
	var found []string
	for _, row := range Rows(text) {
		if match := quoted.FindStringSubmatch(row[0]); match != nil {
			found = append(found, match[1])
		}
	}
	return found
}

func TestLinksLeadSomewhere(t *testing.T) {
	pages, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, page := range pages {
		links += len(link.FindAllString(page.prose(), -1))
		for _, target := range page.Broken(root, pages) {
			t.Errorf("%s links to %s, which does not exist", page.Path, target)
		}
	}
	if links == 0 {
		t.Error("no links are found")
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	page := Page{Path: "docs/flags.md", Text: "# Flags\n\n[a](#flags) [b](#nowhere) [c](../README.md) [d](nowhere.md) [e](https://example.com/#x)\n" +
		"[f](guide.md#a-pool) [g](guide.md#no-pool)\n```\n[h](nowhere.md)\n```\n"}
	guide := Page{Path: "docs/guide.md", Text: "# Guide\n\n## A `pool`\n"}
	if got, want := page.Broken(root, []Page{page, guide}), []string{"#nowhere", "nowhere.md", "guide.md#no-pool"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEveryPageIsReachedFromTheFrontPage(t *testing.T) {
	pages, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	front := read(t, "README.md")
	for _, page := range pages {
		if strings.HasPrefix(page.Path, "docs/") && !strings.Contains(front.Text, "]("+page.Path+")") {
			t.Errorf("README.md does not link to %s", page.Path)
		}
	}
}

func TestEveryReasonOfADenialHasItsSection(t *testing.T) {
	// It is of a machine that was admitted, and so no denial.
	const admitted = "AskedInVain"
	page := read(t, "docs/denials.md")
	reasons := slices.DeleteFunc(readSource(t).typed["Reason"], func(reason string) bool { return reason == admitted })
	var sections []string
	for _, match := range regexp.MustCompile(`(?m)^## (\S+)$`).FindAllStringSubmatch(page.Text, -1) {
		sections = append(sections, match[1])
	}
	compare(t, "reason", page.Path, reasons, sections)
	if !slices.IsSorted(sections) {
		t.Errorf("%s is not sorted: %q", page.Path, sections)
	}
}

// A text stands under its reason, and is one that the code can make of a format
// for that reason. Each format has an example.
func TestTextsOfDenialsAreThoseOfTheCode(t *testing.T) {
	page := read(t, "docs/denials.md")
	for reason, formats := range readSource(t).refusals {
		var texts []string
		for _, match := range regexp.MustCompile("(?m)^- `(.*)`$").FindAllStringSubmatch(section(t, page, reason), -1) {
			texts = append(texts, match[1])
		}
		for _, text := range texts {
			if !slices.ContainsFunc(formats, func(format string) bool { return pattern(format).MatchString(text) }) {
				t.Errorf("under %s, %s has a text that the code does not make:\n%s", reason, page.Path, text)
			}
		}
		for _, format := range formats {
			if !slices.ContainsFunc(texts, pattern(format).MatchString) {
				t.Errorf("under %s, %s has no text of the format\n%s", reason, page.Path, format)
			}
		}
	}
}

func TestEveryCheckHasItsSection(t *testing.T) {
	page := read(t, "docs/checks.md")
	var sections []string
	for _, match := range regexp.MustCompile(`(?m)^## (SIP-\d+)$`).FindAllStringSubmatch(page.Text, -1) {
		sections = append(sections, match[1])
		if text := section(t, page, match[1]); !strings.Contains(text, "**error**") && !strings.Contains(text, "**warning**") {
			t.Errorf("%s does not say how bad %s is", page.Path, match[1])
		}
	}
	compare(t, "check", page.Path, readSource(t).typed["CheckID"], sections)
}

func TestChecksMeanWhatThePageSays(t *testing.T) {
	page, code := read(t, "docs/checks.md"), readSource(t)
	documented := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^\| \[(SIP-\d+)\]\(#sip-\d+\) \| (.*) \|$`).FindAllStringSubmatch(page.Text, -1) {
		documented[match[1]] = match[2]
	}
	if len(code.meanings) == 0 || !maps.Equal(code.meanings, documented) {
		t.Errorf("checks mean %q, and %s says %q", code.meanings, page.Path, documented)
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	page := read(t, "docs/metrics.md")
	compare(t, "metric", page.Path, readSource(t).metrics, names(section(t, page, "Metrics")))
}

func TestEventsAreDocumented(t *testing.T) {
	page, code := read(t, "docs/metrics.md"), readSource(t)
	// Reasons of denials have a page of their own; some are told otherwise, too.
	documented := slices.DeleteFunc(names(section(t, page, "Events")), func(name string) bool {
		return slices.Contains(code.typed["Reason"], name)
	})
	compare(t, "event", page.Path, code.events, documented)
}

func TestCausesOfUnfitAddressesAreDocumented(t *testing.T) {
	page := read(t, "docs/concepts.md")
	var documented []string
	for _, row := range Rows(section(t, page, "Addresses that cannot be given")) {
		for _, cause := range strings.Split(row[1], ", ") {
			documented = append(documented, strings.Trim(cause, "`"))
		}
	}
	compare(t, "cause", page.Path, readSource(t).typed["UnfitCause"], documented)
}

func TestStepsOfTheControllerAreThoseOfTheCode(t *testing.T) {
	page := read(t, "docs/design.md")
	compare(t, "step", page.Path, readSource(t).typed["step"], names(section(t, page, "The steps of the controller")))
}

// Marks are the constants that say so in their names; other names with the same
// prefix never leave the program.
func TestMarksAreDocumented(t *testing.T) {
	const prefix = "capv-static-ip.dev/"
	isMark := regexp.MustCompile("(Annotation|Label|Finalizer|Condition)$")
	var code, documented []string
	for name, text := range readSource(t).texts {
		if mark, ours := strings.CutPrefix(text, prefix); ours && isMark.MatchString(name) && !slices.Contains(code, mark) {
			code = append(code, mark)
		}
	}
	page := read(t, "docs/marks.md")
	for _, name := range names(section(t, page, "Marks")) {
		// One is known to a policy only, and one is a prefix.
		if name != "allow-deletion" && !strings.HasSuffix(name, "<device>") && !slices.Contains(documented, name) {
			documented = append(documented, name)
		}
	}
	compare(t, "mark", page.Path, code, documented)
}

func TestInvariantsAreNumbered(t *testing.T) {
	page := read(t, "docs/design.md")
	var got []string
	for _, row := range Rows(section(t, page, "Invariants")) {
		got = append(got, row[0])
	}
	if want := []string{"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
