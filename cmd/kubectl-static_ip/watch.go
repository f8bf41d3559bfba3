package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"

	"capv-static-ip.dev/inventory"
)

// watchInterval is the pause between two looks. Each reads all that can have addresses.
const watchInterval = 3 * time.Second

// watchPools shows all pools, and then those that have changed, until it is interrupted.
// The columns stay as wide as they were for all of them.
func (o *options) watchPools(ctx context.Context) error {
	if !o.isTable() {
		return exit{exitUsage, errors.New("--watch prints a table, or one that is wide")}
	}
	printer := printers.NewTablePrinter(printers.PrintOptions{NoHeaders: o.noHeaders, Wide: o.output == "wide"})
	// It remembers how wide its columns were.
	out := printers.GetNewTabWriter(o.tables())
	shown := map[string]string{}
	// What looks wrong is told by the look after that.
	lookout := inventory.Lookout{Limits: inventory.OutsideLimits(), Pause: inventory.SecondLook}
	for {
		began := time.Now()
		graph, err := o.readHere(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it was interrupted, which is how it ends
		case err != nil:
			return err
		}
		report, _ := lookout.Look(graph, began, time.Now())
		table := poolList(graph, inventory.ProblemsOf(report.Findings)).table(o.colours)
		if table.Rows = changed(table.Rows, shown); len(table.Rows) > 0 {
			if err := errors.Join(printer.PrintObj(table, out), out.Flush()); err != nil {
				return fmt.Errorf("printing pools: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

// changed are the rows that are not as they were shown. The first two cells name a row.
func changed(rows []metav1.TableRow, shown map[string]string) []metav1.TableRow {
	var news []metav1.TableRow
	for _, row := range rows {
		name, text := fmt.Sprint(row.Cells[:2]), fmt.Sprint(row.Cells)
		if shown[name] != text {
			shown[name] = text
			news = append(news, row)
		}
	}
	return news
}
