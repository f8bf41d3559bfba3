package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/web"
)

func newWeb(o *options) *cobra.Command {
	var port int
	var noBrowser bool
	cmd := &cobra.Command{
		Use: "web", Short: "Show all of it on a page in your browser", Args: cobra.NoArgs,
		Long: "Show all of it on a page in your browser, fresh as long as the command runs.\n\n" +
			"The page is served on the loopback interface of this machine, to the one browser that opens the link " +
			"first, and reads the cluster with your own rights. It changes nothing. Ctrl-C ends it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := o.server(cmd.Context(), port)
			if err != nil {
				return err
			}
			for _, unseen := range server.Unseen() {
				fmt.Fprintln(o.streams.ErrOut, "warning:", unseen)
			}
			fmt.Fprintln(o.streams.Out, server.URL())
			if !noBrowser {
				go o.browse(cmd.Context(), server.URL())
			}
			if err := server.Serve(cmd.Context()); err != nil {
				return exit{exitNo, err}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "The port to listen on, on the loopback interface; 0 is a free one.")
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "Print the link, and open nothing.")
	return cmd
}

// server reads the cluster, and is ready to serve.
func (o *options) server(ctx context.Context, port int) (*web.Server, error) {
	loader := o.config.ToRawKubeConfigLoader()
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, exit{exitUnreachable, err}
	}
	if o.allNamespaces {
		namespace = ""
	}
	source, err := o.source(namespace)
	if err != nil {
		return nil, err
	}
	watching, err := o.watching(source)
	if err != nil {
		return nil, exit{exitUnreachable, fmt.Errorf("reaching the cluster: %w", err)}
	}
	config, err := loader.RawConfig()
	if err != nil {
		return nil, exit{exitUnreachable, err}
	}
	server, err := web.NewServer(ctx, web.Options{
		Source: source, Client: watching, Context: cmp.Or(*o.config.Context, config.CurrentContext), Port: port, Limits: inventory.OutsideLimits(),
	})
	var network *net.OpError
	switch {
	case errors.As(err, &network) && network.Op == "listen":
		return nil, exit{exitNo, err}
	case err != nil:
		return nil, exit{exitUnreachable, err}
	}
	return server, nil
}

// watching is a client that knows what that of a source does, and watches.
func (o *options) watching(source inventory.Source) (client.WithWatch, error) {
	config, err := o.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = qps, burst
	return client.NewWithWatch(config, client.Options{Scheme: source.Client.Scheme(), Mapper: source.Client.RESTMapper()})
}

// browse opens a link in the user's browser, which may go on after us.
func (o *options) browse(ctx context.Context, link string) {
	command := []string{"xdg-open"}
	switch runtime.GOOS {
	case "darwin":
		command = []string{"open"}
	case "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	if err := exec.CommandContext(context.WithoutCancel(ctx), command[0], append(command[1:], link)...).Run(); err != nil && ctx.Err() == nil {
		fmt.Fprintln(o.streams.ErrOut, "warning: no browser could be opened, open the link yourself:", err)
	}
}
