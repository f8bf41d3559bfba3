package metal3

import (
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestPoolIsTouchedOnlyWhenItIsTerminatingAndItsAddressesAreGone(t *testing.T) {
	for name, test := range map[string]struct {
		terminating bool
		addresses   []client.Object
		touched     bool
	}{
		"it lives":                          {false, nil, false},
		"nothing is left":                   {true, nil, true},
		"an address is left":                {true, []client.Object{taken("ns", "pool", "10.0.0.1")}, false},
		"one of another pool is left":       {true, []client.Object{taken("ns", "other", "10.0.0.1")}, true},
		"one of another namespace is left":  {true, []client.Object{taken("other", "pool", "10.0.0.1")}, true},
		"several are left, one of the pool": {true, []client.Object{taken("ns", "other", "10.0.0.1"), taken("ns", "pool", "10.0.0.2")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			pool := &ipamv1.IPPool{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pool"}}
			if test.terminating {
				pool.DeletionTimestamp, pool.Finalizers = new(metav1.Now()), []string{"metal3"}
			}
			scheme := runtime.NewScheme()
			if err := ipamv1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(append(test.addresses, pool)...).
				WithIndex(&ipamv1.IPAddress{}, byPool, indexByPool).Build()
			key := client.ObjectKeyFromObject(pool)
			if _, err := (&poolReconciler{client: c}).Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
				t.Fatal(err)
			}
			if err := c.Get(t.Context(), key, pool); err != nil {
				t.Fatal(err)
			}
			if _, touched := pool.Annotations[touchedAnnotation]; touched != test.touched {
				t.Errorf("it is touched: %t, want %t", touched, test.touched)
			}
		})
	}
}

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
