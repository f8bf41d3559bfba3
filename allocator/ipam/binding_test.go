package ipam

import (
	"fmt"
	"strings"
	"testing"
)

func TestBindingsAreReadWithinBounds(t *testing.T) {
	const one = `{"device":{"index":0},"pool":{"apiGroup":"ipam.metal3.io","kind":"IPPool","name":"p"},"claim":"cp-0","address":"10.0.0.1/24"}`
	of := func(bindings ...string) string {
		return `{"machine":"cp","bindings":[` + strings.Join(bindings, ",") + `]}`
	}
	with := func(old, changed string) string { return of(strings.Replace(one, old, changed, 1)) }
	repeated := func(n int) string { return of(strings.Split(strings.Repeat(one+";", n), ";")[:n]...) }
	for name, test := range map[string]struct {
		text  string
		valid bool
	}{
		"one":                     {of(one), true},
		"none":                    {"{}", true},
		"as many as devices":      {repeated(MaxDevices), true},
		"one more":                {repeated(MaxDevices + 1), false},
		"as large as may be":      {of(one) + strings.Repeat(" ", MaxBindingsSize-len(of(one))), true},
		"a byte larger":           {of(one) + strings.Repeat(" ", MaxBindingsSize-len(of(one))+1), false},
		"no JSON":                 {"{", false},
		"an empty binding":        {of("{}"), false},
		"no address":              {with("10.0.0.1/24", ""), false},
		"the last device":         {with(`"index":0`, fmt.Sprintf(`"index":%d`, MaxDevices-1)), true},
		"a device beyond":         {with(`"index":0`, fmt.Sprintf(`"index":%d`, MaxDevices)), false},
		"a device before":         {with(`"index":0`, `"index":-1`), false},
		"a path for a claim":      {with("cp-0", "a/b"), false},
		"no claim":                {with("cp-0", ""), false},
		"a path for a pool":       {with(`"name":"p"`, `"name":"../p"`), false},
		"no kind":                 {with("IPPool", ""), false},
		"a path for a kind":       {with("IPPool", "a/b"), false},
		"no group":                {with("ipam.metal3.io", ""), false},
		"a claim of another name": {with("cp-0", "somebody.else"), true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseBindings(test.text); (err == nil) != test.valid {
				t.Errorf("got %v, want it to be valid: %v", err, test.valid)
			}
		})
	}
}

func TestBindingsThatWouldNotBeReadAreNotWritten(t *testing.T) {
	b := Bindings{Machine: "cp", Bindings: []Binding{{SearchDomains: []string{strings.Repeat("x", MaxBindingsSize)}}}}
	_, err := b.Encode()
	if refusal, ok := AsRefusal(err); !ok || refusal.Reason != BindingsInvalid {
		t.Errorf("got %v, want a refusal", err)
	}
}
