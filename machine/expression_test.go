package machine

import (
	"strings"
	"testing"

	"capv-static-ip.dev/allocator/ipam"
)

func TestExpressionIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"a":                       "a",
		" a , b ":                 "a,b",
		"a|b, c":                  "a|b,c",
		"IPPool/a | @prod":        "IPPool/a|@prod",
		"GlobalInClusterIPPool/a": "GlobalInClusterIPPool/a",
		"InClusterIPPool.ipam.cluster.x-k8s.io/a": "InClusterIPPool.ipam.cluster.x-k8s.io/a",
		"a,a":               "a,a",
		"a = 10.0.0.5 | a":  "a=10.0.0.5|a",
		"@g=2001:DB8::1":    "@g=2001:db8::1",
		"a=::ffff:10.0.0.5": "a=10.0.0.5",
		"@Prod_1.x":         "@Prod_1.x",
	} {
		got, err := parseExpression(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: got %q and error %v, want %q", text, got, err, want)
		}
	}
}

func TestWhatIsNoExpressionIsAnError(t *testing.T) {
	many := func(text, separator string, n int) string { return strings.Repeat(text+separator, n-1) + text }
	for text, want := range map[string]string{
		"":                           "is not a reference to a pool",
		",":                          "has an empty part",
		"a,,b":                       "has an empty part",
		"a|":                         "has an empty part",
		"a/b/c":                      "is not a reference to a pool",
		"a b":                        "is not a reference to a pool",
		"@":                          "names no group",
		"@a b":                       "names no group",
		many("a", ",", 9):            "asks for 9 addresses for one device",
		many("a", "|", 17):           "has 17 choices for one address",
		many("a", ",", 8) + "|" + "": "has an empty part",
	} {
		if got, err := parseExpression(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q and error %v, want one with %q", text, got, err, want)
		}
	}
}

func FuzzExpressionIsReadAsItIsWritten(f *testing.F) {
	for _, text := range []string{"a", "a,b|c", "@g|IPPool/a, b", "x.y/z|@", ",", "|", "a=10.0.0.5", "@g=fd00::1,a="} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		expression, err := parseExpression(text)
		if err != nil {
			return // it is no expression
		}
		again, err := parseExpression(expression.String())
		if err != nil || again.String() != expression.String() {
			t.Errorf("%q: %q is read as %q, error %v", text, expression, again, err)
		}
		for _, choices := range expression {
			for _, choice := range choices {
				if (choice.Pool == ipam.PoolReference{}) == choice.Labels.IsEmpty() {
					t.Errorf("%q: %v is neither a pool nor labels, or both", text, choice)
				}
			}
		}
	})
}
