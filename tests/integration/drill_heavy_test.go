//go:build heavy

package integration

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capv-static-ip.dev/tests/harness"
)

func TestClusterIsWholeAfterTheDrillHoweverMuchIsInTheBackup(t *testing.T) {
	drillEach(t, map[string]leavesOut{
		"all of it": func(int, *unstructured.Unstructured) bool { return false },
		"the addresses alone": func(_ int, object *unstructured.Unstructured) bool {
			return isOfIPAM(object) && object.GetKind() != "IPAddress"
		},
	})
}

// A claim of metal3 asks for its address. One of the in-cluster provider cannot, and would be
// bound to any: so docs/restore.md says to keep both in, or none.
func TestClusterOfMetal3IsWholeAfterTheDrillWithTheClaimsAlone(t *testing.T) {
	t.Parallel()
	drilling(t, harness.OfMetal3, func(_ int, object *unstructured.Unstructured) bool { return object.GetKind() == "IPAddress" })
}
