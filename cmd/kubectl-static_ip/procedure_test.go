package main

import (
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

func TestCommandsThatPlanTakeOneOfYesAndDryRun(t *testing.T) {
	for _, args := range [][]string{{"adopt-adapter"}, {"migrate", "--from=IPPool/old", "--to=InClusterIPPool/new"}} {
		streams, _, _, errOut := genericiooptions.NewTestIOStreams()

		code := run(t.Context(), "kubectl-static_ip", append(args, "--yes", "--dry-run"), streams)

		if text := errOut.String(); code != exitUsage || !strings.Contains(text, "[dry-run yes] were all set") {
			t.Errorf("%s exits with %d and says %q, want to be told that it is one or the other", args[0], code, text)
		}
	}
}
