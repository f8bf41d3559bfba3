package main

import (
	"bytes"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"
)

// custom prints a list in columns of the user's own, HEADING:PATH, as kubectl takes them.
func (o *options) custom(l *list, spec string) error {
	table := &metav1.Table{}
	var paths []*jsonpath.JSONPath
	for part := range strings.SplitSeq(spec, ",") {
		heading, path, ok := strings.Cut(part, ":")
		if !ok || heading == "" || path == "" {
			return exit{exitUsage, fmt.Errorf("%q is not HEADING:PATH, as in NAME:.metadata.name", part)}
		}
		parsed, err := parsePath(path)
		if err != nil {
			return exit{exitUsage, fmt.Errorf("reading the path %q of column %s: %w", path, heading, err)}
		}
		paths = append(paths, parsed)
		table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{Name: heading, Type: "string"})
	}
	object, err := l.object()
	if err != nil {
		return err
	}
	for _, item := range object.(*unstructured.UnstructuredList).Items {
		row := metav1.TableRow{}
		for _, path := range paths {
			cell, err := cellOf(path, item.Object)
			if err != nil {
				return exit{exitUsage, err}
			}
			row.Cells = append(row.Cells, cell)
		}
		table.Rows = append(table.Rows, row)
	}
	if o.colours {
		for _, row := range table.Rows {
			for i := range row.Cells {
				row.Cells[i] = unmarked(fmt.Sprint(row.Cells[i]))
			}
		}
	}
	return o.printTable(table)
}

// parsePath reads .metadata.name and {.metadata.name} alike.
func parsePath(path string) (*jsonpath.JSONPath, error) {
	if !strings.HasPrefix(path, "{") {
		path = "{." + strings.TrimPrefix(path, ".") + "}"
	}
	parsed := jsonpath.New("column").AllowMissingKeys(true)
	return parsed, parsed.Parse(path)
}

// cellOf is what stands at a path, <none> if nothing does.
func cellOf(path *jsonpath.JSONPath, object map[string]any) (string, error) {
	var text bytes.Buffer
	if err := path.Execute(&text, object); err != nil {
		return "", fmt.Errorf("looking for the column in what was found: %w", err)
	}
	if text.Len() == 0 {
		return "<none>", nil
	}
	return text.String(), nil
}
