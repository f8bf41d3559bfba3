package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestDefaultOptionsAreValid(t *testing.T) {
	opts, err := parseOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	if opts.kubeAPIQPS != 100 || opts.kubeAPIBurst != 200 || opts.orphanGracePeriod != 5*time.Minute {
		t.Errorf("got QPS %v, burst %d, grace period %s", opts.kubeAPIQPS, opts.kubeAPIBurst, opts.orphanGracePeriod)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for flags, want := range map[string]string{
		"--leader-elect":           "--leader-elect-namespace is needed outside a cluster",
		"--webhook-port=0":         "--webhook-port 0 is not a port",
		"--webhook-port=70000":     "--webhook-port 70000 is not a port",
		"--orphan-grace-period=0s": "--orphan-grace-period 0s must be positive",
		"--drain-delay=-1s":        "--drain-delay -1s must not be negative",
		"--kube-api-qps=0":         "--kube-api-qps and --kube-api-burst must be positive",
		"extra":                    `unexpected argument "extra"`,
		"--no-such-flag":           "unknown flag",
		"--sync-period=soon":       "invalid argument",
		"--leader-elect --leader-elect-namespace=x --leader-elect-renew-deadline=20s": "must be below",
	} {
		_, err := parseOptions(strings.Fields(flags))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", flags, err, want)
		}
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	if _, err := parseOptions([]string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}
