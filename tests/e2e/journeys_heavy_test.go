//go:build heavy

package e2e

import (
	"testing"

	"capv-static-ip.dev/tests/harness"
)

func TestMachinesAreMovedWithinAProviderAndBackWhileOthersComeAndGo(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, by harness.Fixture) { thereAndBack(t, by, by) })
}

func TestMachinesOfALostManagementClusterAreRestoredWithTheirClaims(t *testing.T) {
	t.Parallel()
	restoredFrom(t)
}
