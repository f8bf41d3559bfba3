package allocator

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestNotificationReachesWhoWaitsForTheClaim(t *testing.T) {
	var w notifier
	mine, other := types.NamespacedName{Name: "mine"}, types.NamespacedName{Name: "other"}
	first, endFirst := w.subscribe(mine)
	second, endSecond := w.subscribe(mine)
	third, endThird := w.subscribe(other)

	w.notify(mine)
	w.notify(mine)

	for _, woken := range []<-chan struct{}{first, second} {
		select {
		case <-woken:
		default:
			t.Error("a waiting request was not woken")
		}
		select {
		case <-woken:
			t.Error("two changes woke twice")
		default:
		}
	}
	select {
	case <-third:
		t.Error("a request that waits for another claim was woken")
	default:
	}
	for _, end := range []func(){endFirst, endSecond, endThird} {
		end()
	}
	if len(w.waiting) > 0 {
		t.Errorf("subscriptions are left: %v", w.waiting)
	}
}
