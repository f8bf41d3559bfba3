package allocator

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/ipam"
)

func poolThatCools(after string) *ipamv1.IPPool {
	return &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{ipam.ReuseAfterAnnotation: after}}}
}

func TestPoolThatSaysNothingLegibleLeavesTheDefault(t *testing.T) {
	for name, test := range map[string]struct {
		pool client.Object
		want time.Duration
		told int
	}{
		"nothing":   {&ipamv1.IPPool{}, time.Minute, 0},
		"something": {poolThatCools("5m"), 5 * time.Minute, 0},
		"zero":      {poolThatCools("0"), 0, 0},
		"illegible": {poolThatCools("soon"), time.Minute, 1},
		"negative":  {poolThatCools("-5m"), time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := events.NewFakeRecorder(1)
			c := Cooler{ReuseAfter: time.Minute, Events: recorder}
			if got := c.lasts(test.pool); got != test.want || len(recorder.Events) != test.told {
				t.Errorf("got %s and %d events, want %s and %d", got, len(recorder.Events), test.want, test.told)
			}
		})
	}
}

// gauge is how much cools down.
func gauge(t *testing.T) float64 {
	t.Helper()
	metric := &dto.Metric{}
	if err := addressesCooling.Write(metric); err != nil {
		t.Fatal(err)
	}
	return metric.GetGauge().GetValue()
}

func TestWhatCoolsDownIsCounted(t *testing.T) {
	before := gauge(t)
	c := Census{}
	for _, count := range []int{2, 1, 1, 3, 0, 0} {
		c.Note(types.NamespacedName{Name: "cp-0"}, count)
		c.Note(types.NamespacedName{Name: "cp-1"}, 1)
		if got, want := gauge(t)-before, float64(count+1); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	c.Note(types.NamespacedName{Name: "cp-1"}, 0)
	if got := gauge(t) - before; got != 0 || len(c.counts) != 0 {
		t.Errorf("got %v of %v, want none", got, c.counts)
	}
}
