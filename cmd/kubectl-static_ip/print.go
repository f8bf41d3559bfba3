package main

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"

	"capv-static-ip.dev/cli/v1alpha1"
	"capv-static-ip.dev/inventory"
)

// column is a column of a table. Those of wide are shown with -o wide only.
type column struct {
	name string
	wide bool
}

// list is what a command shows, as a table and as objects.
type list struct {
	kind    string
	columns []column
	rows    [][]any
	// items are what -o json and the like print, a row each.
	items []any
}

func (l *list) add(item any, row ...any) {
	l.rows, l.items = append(l.rows, row), append(l.items, item)
}

// showOf prints what was found in a Graph. The error tells what could not be looked at.
func (o *options) showOf(graph *inventory.Graph, l *list) error {
	if err := o.show(l); err != nil {
		return err
	}
	return seen(graph)
}

// isTable tells whether people are to read what is printed.
func (o *options) isTable() bool { return o.output == "" || o.output == "wide" }

// show prints a list in the form that the user wants.
func (o *options) show(l *list) error {
	if o.isTable() {
		return o.table(l)
	}
	if spec, custom := strings.CutPrefix(o.output, "custom-columns="); custom {
		return o.custom(l, spec)
	}
	flags := o.print
	flags.OutputFormat = &o.output
	printer, err := flags.ToPrinter()
	if err != nil {
		return exit{exitUsage, err}
	}
	object, err := l.object()
	if err != nil {
		return err
	}
	return printer.PrintObj(object, o.streams.Out)
}

func (o *options) table(l *list) error {
	return o.printTable(l.table(o.colours))
}

// table is the list as kubectl's printer takes it. With colours, the cells of columns that
// have some are marked, see painter.
func (l *list) table(colours bool) *metav1.Table {
	table := &metav1.Table{}
	isPainted := l.paintedColumns()
	for i, c := range l.columns {
		if colours && isPainted[i] {
			c.name = painted{c.name, plain}.marked()
		}
		definition := metav1.TableColumnDefinition{Name: c.name, Type: "string"}
		if c.wide {
			definition.Priority = 1
		}
		table.ColumnDefinitions = append(table.ColumnDefinitions, definition)
	}
	for _, row := range l.rows {
		cells := slices.Clone(row)
		for i, cell := range cells {
			switch of := cell.(type) {
			case painted:
				cells[i] = of.text
				if colours {
					cells[i] = of.marked()
				}
			case string:
				if colours {
					cells[i] = unmarked(of)
				}
			}
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: cells})
	}
	return table
}

// paintedColumns tells of each column whether it has colours. Then all its cells have.
func (l *list) paintedColumns() []bool {
	is := make([]bool, len(l.columns))
	for _, row := range l.rows {
		for i, cell := range row {
			_, painted := cell.(painted)
			is[i] = is[i] || painted
		}
	}
	return is
}

func (o *options) printTable(table *metav1.Table) error {
	if len(table.Rows) == 0 {
		fmt.Fprintln(o.streams.ErrOut, "No resources found.")
		return nil
	}
	return printers.NewTablePrinter(printers.PrintOptions{NoHeaders: o.noHeaders, Wide: o.output == "wide"}).PrintObj(table, o.tables())
}

// object is the list as an object of its own kind, e.g. PoolList.
func (l *list) object() (runtime.Object, error) {
	all := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": v1alpha1.APIVersion, "kind": l.kind + "List"}}
	for _, item := range l.items {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(item)
		if err != nil {
			return nil, fmt.Errorf("printing a %s: %w", l.kind, err)
		}
		content["apiVersion"], content["kind"] = v1alpha1.APIVersion, l.kind
		all.Items = append(all.Items, unstructured.Unstructured{Object: content})
	}
	return all, nil
}

// oneLine is a text, which others may have written, without what a terminal would do
// something else with than show it.
func oneLine(text string) string {
	return strings.ReplaceAll(printers.EscapeTerminal(text), "\n", `\n`)
}

// orDash is a dash for what is not there.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
