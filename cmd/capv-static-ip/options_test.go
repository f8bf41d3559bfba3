package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"sigs.k8s.io/yaml"

	"capv-static-ip.dev/tests/docs"
)

func TestDefaultOptionsAreValid(t *testing.T) {
	opts, err := parseOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	if opts.kubeAPIQPS != 100 || opts.kubeAPIBurst != 200 || opts.orphanGracePeriod != 90*time.Second || len(opts.warnings()) > 0 {
		t.Errorf("got QPS %v, burst %d, grace period %s", opts.kubeAPIQPS, opts.kubeAPIBurst, opts.orphanGracePeriod)
	}
}

// What the Deployment says of flags can be seen and replaced there, and is what they
// are without it, but for the election.
func TestDeploymentNamesFlagsWithTheirDefaults(t *testing.T) {
	content, err := os.ReadFile("../../deploy/manager/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	deployment := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict(content, deployment); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&options{logging: logs.NewOptions()}).addFlags(fs)
	for _, arg := range deployment.Spec.Template.Spec.Containers[0].Args {
		name, value, found := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		known := fs.Lookup(name)
		if !found || known == nil {
			t.Errorf("%s is no --flag=value that the manager knows", arg)
			continue
		}
		want := known.DefValue
		if name == "leader-elect" {
			want = "true"
		}
		if err := known.Value.Set(value); err != nil {
			t.Errorf("%s: %v", arg, err)
		}
		got := known.Value.String()
		if err := known.Value.Set(want); err != nil {
			t.Errorf("--%s=%s: %v", name, want, err)
		}
		if got != known.Value.String() {
			t.Errorf("%s: want %s", arg, want)
		}
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

func TestShortGracePeriodIsWarnedOf(t *testing.T) {
	for period, want := range map[string]int{"74s": 1, "75s": 0} {
		opts, err := parseOptions([]string{"--orphan-grace-period=" + period})
		if err != nil {
			t.Fatal(err)
		}
		if got := opts.warnings(); len(got) != want {
			t.Errorf("%s: got the warnings %q, want %d", period, got, want)
		}
	}
}

func TestFreezeOfEverythingIsWarnedOf(t *testing.T) {
	opts, err := parseOptions([]string{"--freeze=restoring the backup of Monday"})
	if err != nil {
		t.Fatal(err)
	}
	if got := opts.warnings(); len(got) != 1 || !strings.Contains(got[0], "(restoring the backup of Monday)") {
		t.Errorf("got the warnings %q", got)
	}
}

func TestHelpIsNoFailure(t *testing.T) {
	if _, err := parseOptions([]string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}

// The flags for the log come from Kubernetes, which documents them; only the two
// that everybody needs are on the page.
func TestFlagsAreDocumented(t *testing.T) {
	page, err := docs.Read("../..", "docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range docs.Rows(page.Text) {
		documented[strings.Trim(row[0], "`-")] = strings.Trim(row[1], "`")
	}
	others := pflag.NewFlagSet("", pflag.ContinueOnError)
	logsapi.AddFlags(logs.NewOptions(), others)
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&options{logging: logs.NewOptions()}).addFlags(all)

	all.VisitAll(func(f *pflag.Flag) {
		value, found := documented[f.Name]
		switch {
		case !found && others.Lookup(f.Name) == nil:
			t.Errorf("--%s is not documented", f.Name)
		case found && !isDefault(f, value):
			t.Errorf("--%s has the default %q, and is documented with %q", f.Name, f.DefValue, value)
		}
		delete(documented, f.Name)
	})
	for name := range documented {
		t.Errorf("--%s is documented, and does not exist", name)
	}
}

// isDefault tells whether a text means what a flag is without being set.
func isDefault(f *pflag.Flag, text string) bool {
	if want, err := time.ParseDuration(f.DefValue); err == nil && f.Value.Type() == "duration" {
		got, err := time.ParseDuration(text)
		return err == nil && got == want
	}
	return text == strings.Trim(f.DefValue, "[]")
}
