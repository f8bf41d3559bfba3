// Command promql-selectors says which series PromQL expressions read. It takes
// a JSON list of expressions on standard input, and prints a JSON list of their
// selectors: the name of the metric, and the labels that are used of it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/prometheus/prometheus/promql/parser"
)

// selector is what one expression reads of one metric.
type selector struct {
	Metric string   `json:"metric"`
	Labels []string `json:"labels"`
	// Expression is the index of the expression in the input.
	Expression int `json:"expression"`
}

// metricName is the label that holds the name of a metric.
const metricName = "__name__"

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "promql-selectors:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var expressions []string
	if err := json.NewDecoder(in).Decode(&expressions); err != nil {
		return fmt.Errorf("reading the expressions: %w", err)
	}
	var found []selector
	for i, text := range expressions {
		selectors, err := selectorsOf(text)
		if err != nil {
			return fmt.Errorf("expression %d: %w", i, err)
		}
		for _, s := range selectors {
			s.Expression = i
			found = append(found, s)
		}
	}
	return json.NewEncoder(out).Encode(found)
}

// selectorsOf finds the selectors of one expression. The labels of a selector are
// those that it matches itself, and those by which what is around it groups or joins.
func selectorsOf(text string) ([]selector, error) {
	root, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		return nil, fmt.Errorf("parsing %q: %w", text, err)
	}
	var found []selector
	parser.Inspect(root, func(node parser.Node, path []parser.Node) error {
		vector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		used := map[string]bool{}
		for _, matcher := range vector.LabelMatchers {
			used[matcher.Name] = true
		}
		for _, around := range path {
			for _, name := range grouping(around) {
				used[name] = true
			}
		}
		delete(used, metricName)
		found = append(found, selector{Metric: vector.Name, Labels: slices.Sorted(maps.Keys(used))})
		return nil
	})
	if len(found) == 0 {
		return nil, errors.New("no metric in " + text)
	}
	return found, nil
}

// grouping are the labels that a node keeps or joins by.
func grouping(node parser.Node) []string {
	switch n := node.(type) {
	case *parser.AggregateExpr:
		if !n.Without {
			return n.Grouping
		}
	case *parser.BinaryExpr:
		if n.VectorMatching != nil && n.VectorMatching.On {
			return n.VectorMatching.MatchingLabels
		}
	}
	return nil
}
