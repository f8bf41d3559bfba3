// Package docs reads the project's documentation, so that tests can compare it
// with the code and run what it tells to run.
package docs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Page is a page of documentation.
type Page struct {
	// Path is where the page is, from the root of the project.
	Path string
	Text string
}

// Pages are the pages that users and contributors read.
func Pages(root string) ([]Page, error) {
	var paths []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, fmt.Errorf("looking for pages: %w", err)
		}
		paths = append(paths, found...)
	}
	pages := make([]Page, 0, len(paths))
	for _, file := range paths {
		name, err := filepath.Rel(root, file)
		if err != nil {
			return nil, fmt.Errorf("naming page %s: %w", file, err)
		}
		page, err := Read(root, filepath.ToSlash(name))
		if err != nil {
			return nil, err
		}
		pages = append(pages, page)
	}
	return pages, nil
}

// Read reads one page.
func Read(root, name string) (Page, error) {
	content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return Page{}, fmt.Errorf("reading page %s: %w", name, err)
	}
	return Page{Path: name, Text: string(content)}, nil
}

var (
	block   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	// notInSlugs are the characters that GitHub leaves out of an anchor.
	notInSlugs = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Blocks are the fenced blocks in a language.
func (p Page) Blocks(language string) []string {
	var blocks []string
	for _, match := range block.FindAllStringSubmatch(p.Text, -1) {
		if match[1] == language {
			blocks = append(blocks, match[2])
		}
	}
	return blocks
}

// Manifests are the objects in the YAML blocks: those that have a kind.
func (p Page) Manifests() ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for _, block := range p.Blocks("yaml") {
		decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(block), len(block))
		for {
			var content map[string]any
			err := decoder.Decode(&content)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("reading a manifest of %s: %w in\n%s", p.Path, err, block)
			}
			if content["kind"] != nil {
				objects = append(objects, &unstructured.Unstructured{Object: content})
			}
		}
	}
	return objects, nil
}

// prose is the page without its fenced blocks.
func (p Page) prose() string { return block.ReplaceAllString(p.Text, "") }

// Anchors are the names by which a link leads to the page's headings.
func (p Page) Anchors() []string {
	var anchors []string
	for _, match := range heading.FindAllStringSubmatch(p.prose(), -1) {
		anchors = append(anchors, Anchor(match[1]))
	}
	return anchors
}

// Anchor is the anchor that GitHub makes of a heading.
func Anchor(heading string) string {
	slug := notInSlugs.ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(slug, " ", "-")
}

// Section is what stands below a heading of the second level, up to the next one.
func (p Page) Section(title string) (string, bool) {
	_, text, found := strings.Cut(p.Text, "\n## "+title+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	return text, found
}

// Rows are the rows of the tables in a text whose first cell is not empty, without
// the heads of the tables.
func Rows(text string) [][]string {
	var rows [][]string
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		isHead := i+1 < len(lines) && strings.HasPrefix(lines[i+1], "| ---")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") || isHead {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if cells[0] != "" {
			rows = append(rows, cells)
		}
	}
	return rows
}

// Broken are the links of a page that lead nowhere: relative ones, to a file that
// does not exist, or to an anchor that its page does not have.
func (p Page) Broken(root string, pages []Page) []string {
	var broken []string
	for _, match := range link.FindAllStringSubmatch(p.prose(), -1) {
		target := match[1]
		if strings.Contains(target, "://") {
			continue
		}
		file, anchor, hasAnchor := strings.Cut(target, "#")
		name := p.Path
		if file != "" {
			name = path.Join(path.Dir(p.Path), file)
		}
		if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(name))); err != nil {
			broken = append(broken, target)
			continue
		}
		i := slices.IndexFunc(pages, func(page Page) bool { return page.Path == name })
		if hasAnchor && (i < 0 || !slices.Contains(pages[i].Anchors(), anchor)) {
			broken = append(broken, target)
		}
	}
	return broken
}
