package machine

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"capv-static-ip.dev/allocator/ipam"
)

const (
	// maxAddresses bounds the addresses that one device may ask for.
	maxAddresses = 8
	// maxChoices bounds the choices for one of them.
	maxChoices = 16
	// maxMachineChoices bounds those of all addresses of one machine. Each may cost reads of
	// the API server, which others wait for.
	maxMachineChoices = 128
)

// Expression is what an annotation asks for one device: an address for each part, each of
// the first of its choices that can serve. It is written
//
//	expression = address { "," address }
//	address    = choice { "|" choice }
//	choice     = ( "@" GROUP | REF ) [ "=" IP ]
//
// where GROUP is the value of ipam.PoolGroupLabel on pools, REF is NAME, KIND/NAME or
// KIND.GROUP/NAME, and IP is the very address that is wanted. Blanks around them mean
// nothing.
type Expression [][]ipam.Choice

// String is the expression as users write it.
func (e Expression) String() string {
	addresses := make([]string, len(e))
	for i, choices := range e {
		texts := make([]string, len(choices))
		for j, choice := range choices {
			texts[j] = textOf(choice)
		}
		addresses[i] = strings.Join(texts, "|")
	}
	return strings.Join(addresses, ",")
}

func textOf(choice ipam.Choice) string {
	if !choice.IP.IsValid() {
		return textOfPool(choice)
	}
	return textOfPool(choice) + "=" + choice.IP.String()
}

func textOfPool(choice ipam.Choice) string {
	pool := choice.Pool
	switch {
	case choice.Labels.Group != "":
		return "@" + choice.Labels.Group
	case pool.APIGroup != "":
		return pool.String()
	case pool.Kind != "":
		return pool.Kind + "/" + pool.Name
	}
	return pool.Name
}

// parseExpression reads an Expression. Its errors end a sentence that begins with where
// the text is written.
func parseExpression(text string) (Expression, error) {
	addresses := strings.Split(text, ",")
	if len(addresses) > maxAddresses {
		return nil, fmt.Errorf("asks for %d addresses for one device: at most %d are given", len(addresses), maxAddresses)
	}
	expression := make(Expression, len(addresses))
	for i, address := range addresses {
		choices := strings.Split(address, "|")
		if len(choices) > maxChoices {
			return nil, fmt.Errorf("has %d choices for one address: name at most %d", len(choices), maxChoices)
		}
		for _, part := range choices {
			part = strings.TrimSpace(part)
			if part == "" && len(addresses)+len(choices) > 2 {
				return nil, fmt.Errorf("is not a list of pools: %q has an empty part; write REF|REF for \"else\" and REF,REF for \"and\"", text)
			}
			choice, err := parseChoice(part)
			if err != nil {
				return nil, err
			}
			expression[i] = append(expression[i], choice)
		}
	}
	return expression, nil
}

func parseChoice(text string) (ipam.Choice, error) {
	source, wanted, isGiven := strings.Cut(text, "=")
	choice, err := parseSource(strings.TrimSpace(source))
	if err != nil || !isGiven {
		return choice, err
	}
	wanted = strings.TrimSpace(wanted)
	if choice.IP, err = netip.ParseAddr(wanted); err != nil || choice.IP.Zone() != "" {
		return ipam.Choice{}, fmt.Errorf("is not a list of pools: %q is not an IP address", wanted)
	}
	choice.IP = choice.IP.Unmap()
	return choice, nil
}

// parseSource reads what a choice is from: a pool, or a group of pools.
func parseSource(text string) (ipam.Choice, error) {
	group, isGroup := strings.CutPrefix(text, "@")
	if !isGroup {
		pool, err := parseReference(text)
		if err != nil {
			return ipam.Choice{}, fmt.Errorf("is not a reference to a pool: %w; write NAME, KIND/NAME or KIND.GROUP/NAME", err)
		}
		return ipam.Choice{Pool: pool}, nil
	}
	if problems := validation.IsValidLabelValue(group); group == "" || len(problems) > 0 {
		return ipam.Choice{}, fmt.Errorf("is not a list of pools: %q names no group; write @ and the value of label %s on pools", text, ipam.PoolGroupLabel)
	}
	return ipam.Choice{Labels: ipam.PoolLabels{Group: group}}, nil
}
