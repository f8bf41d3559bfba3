package main

import (
	"errors"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// What the manager says in a dry run stands in webhook/handler.go.
func TestAnswerOfTheManagerInAPreview(t *testing.T) {
	const exhausted = `IPPool "p" in namespace "ns" is exhausted: 2 of 2 addresses in use`
	for name, test := range map[string]struct {
		answer  answer
		asks    int
		want    string
		refused bool
	}{
		"served":      {answer{asked: true, warnings: []string{`would claim 1 address of IPPool "p" (2 free)`}}, 1, "  would claim 1 address of IPPool \"p\" (2 free)\n", false},
		"refused":     {answer{asked: true, warnings: []string{exhausted}}, 1, "  ! would be refused: " + exhausted + "\n", true},
		"denied":      {answer{asked: true, denial: errors.New("no")}, 1, "  ! would be refused: no\n", true},
		"paused":      {answer{asked: true, warnings: []string{"the machine's Cluster is paused: its addresses follow when the Cluster is resumed and a Machine owns it"}}, 1, "  the machine's Cluster is paused: its addresses follow when the Cluster is resumed and a Machine owns it\n", false},
		"not decided": {answer{asked: true, warnings: []string{"the machine's failure domain decides about its addresses and is not known yet: they are claimed when its Machine exists"}}, 1, "  the machine's failure domain decides about its addresses and is not known yet: they are claimed when its Machine exists\n", false},
		"not asked":   {answer{}, 1, "", false},
		"not there":   {answer{asked: true}, 1, "  ! nobody answers for it: is capv-static-ip installed, and does it serve this namespace?\n", true},
		"needless":    {answer{asked: true}, 0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			streams, _, out, _ := genericiooptions.NewTestIOStreams()
			p := &previewer{options: &options{streams: streams}}
			p.tellAnswer(test.answer, test.asks)
			if out.String() != test.want || p.refused != test.refused {
				t.Errorf("got %q, refused %v; want %q, %v", out, p.refused, test.want, test.refused)
			}
		})
	}
}
