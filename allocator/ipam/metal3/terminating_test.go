package metal3

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTerminatingPoolIsTouchedAtOnceThenEverMoreRarely(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	deleted := metav1.NewTime(now)
	touchedAt := func(after time.Duration) *metav1.ObjectMeta {
		meta := &metav1.ObjectMeta{DeletionTimestamp: &deleted}
		metav1.SetMetaDataAnnotation(meta, touchedAnnotation, now.Add(after).Format(time.RFC3339Nano))
		return meta
	}
	tests := map[string]struct {
		pool *metav1.ObjectMeta
		want time.Time
	}{
		"never touched":              {&metav1.ObjectMeta{DeletionTimestamp: &deleted}, now},
		"touched in an earlier life": {touchedAt(-time.Hour), now},
		"touched at once":            {touchedAt(0), now.Add(minTouchInterval)},
		"touched after some time":    {touchedAt(10 * time.Second), now.Add(20 * time.Second)},
		"touched after a long time":  {touchedAt(time.Hour), now.Add(time.Hour + maxTouchInterval)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := nextTouch(test.pool, now); !got.Equal(test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
