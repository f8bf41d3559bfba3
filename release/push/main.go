// Command push pushes an image from a file to a registry, without a container
// runtime:
//
//	push capv-static-ip-image.oci.tar registry.example.com/capi/capv-static-ip:v0.1.0
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"capv-static-ip.dev/release/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("name a file and an image")
	}
	digest, err := image.Push(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	fmt.Printf("pushed %s@%s\n", args[1], digest)
	return nil
}
