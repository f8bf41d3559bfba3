package harness

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestConditionThatHoldsOnlyWhenTheTimeIsOverDoesNotHold(t *testing.T) {
	looks := 0
	err := Eventually(t.Context(), 100*time.Millisecond, "a denial", func(ctx context.Context) error {
		if looks++; looks > 1 {
			// Its request ends with the time, and it takes that error for a denial.
			<-ctx.Done()
			return nil
		}
		return errors.New("nothing is denied")
	})
	if err == nil || !strings.Contains(err.Error(), "nothing is denied") {
		t.Errorf("got %v, want to be told that nothing is denied", err)
	}
}

func TestConditionThatHoldsLateHolds(t *testing.T) {
	looks := 0
	err := Eventually(t.Context(), 50*time.Millisecond, "an answer", func(ctx context.Context) error {
		if looks++; looks == 1 {
			<-ctx.Done()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestConditionThatIsCutShortAtItsFirstLookIsToldOf(t *testing.T) {
	err := Eventually(t.Context(), time.Millisecond, "an answer", func(ctx context.Context) error {
		<-ctx.Done()
		return errors.New("it was cut short")
	})
	if err == nil || !strings.Contains(err.Error(), "it was cut short") {
		t.Errorf("got %v, want its own error", err)
	}
}
