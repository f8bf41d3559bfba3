// Command build builds programs that the project is developed and tested with,
// unless the cache has them, and prints where they are: one path per line, in
// the order of its arguments.
//
//	go run ./tests/programs/build kustomize
//
// What it is doing meanwhile goes to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"capv-static-ip.dev/tests/programs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return errors.New("name a program: " + strings.Join(programs.Names(), ", "))
	}
	builder, err := programs.NewBuilder(os.Stderr)
	if err != nil {
		return err
	}
	for _, name := range names {
		path, err := builder.Path(ctx, name)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
