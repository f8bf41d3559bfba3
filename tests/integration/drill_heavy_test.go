//go:build heavy

package integration

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestClusterIsWholeAfterTheDrillHoweverMuchIsInTheBackup(t *testing.T) {
	drillEach(t, map[string]leavesOut{
		"all of it":        func(int, *unstructured.Unstructured) bool { return false },
		"the claims alone": func(_ int, object *unstructured.Unstructured) bool { return object.GetKind() == "IPAddress" },
		"the addresses alone": func(_ int, object *unstructured.Unstructured) bool {
			return isOfIPAM(object) && object.GetKind() != "IPAddress"
		},
	})
}
