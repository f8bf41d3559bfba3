package integration

import (
	"context"
	"fmt"
	"testing"

	"capv-static-ip.dev/tests/harness"
)

// What it has claimed would be missing in the pool for as long as the machine lives.
func TestLateMachineThatAsksNoMoreGivesBackWhatItClaimed(t *testing.T) {
	harness.ForEachProvider(t, func(t *testing.T, f harness.Fixture) {
		s := newScene(t, shared)
		machine, taken := s.partlyBound(f)

		s.change(machine, func() { machine.Annotations = nil })

		s.within(2*harness.Soon, "its claim to go", func(context.Context) error {
			if claims := s.claims(); len(claims) != 1 || claims[0].GetName() != taken.GetName() {
				return fmt.Errorf("there are %v", names(claims))
			}
			return nil
		})
		s.returned(f.IP(89))
	})
}
