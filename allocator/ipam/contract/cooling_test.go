package contract

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/faults"
)

func TestInClusterPoolKeepsAddressesForItsGracePeriod(t *testing.T) {
	grace := func(value any) map[string]any {
		return map[string]any{"spec": map[string]any{"addressReuseGracePeriodSeconds": value}}
	}
	for name, test := range map[string]struct {
		pool client.Object
		want time.Duration
	}{
		"of a namespace":      {lab(inCluster, grace(int64(90))), 90 * time.Second},
		"of all namespaces":   {lab(global, grace(int64(90))), 90 * time.Second},
		"without one":         {lab(inCluster, nil), 0},
		"less than nothing":   {lab(inCluster, grace(int64(-90))), 0},
		"more than all times": {lab(inCluster, grace(int64(1)<<62)), maxGraceSeconds * time.Second},
		"in words":            {lab(inCluster, grace("90s")), 0},
		"of another kind":     {lab(rangeKind, grace(int64(90))), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Provider{}).Lingers(test.pool); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// A pool that is gone ends what depends on it, so that the cache is not believed.
func TestPoolIsReadAsItIs(t *testing.T) {
	none, failing := server(t), faults.Failing[*unstructured.Unstructured](server(t), errors.New("the API server is away"))
	for name, test := range map[string]struct {
		mapper       meta.RESTMapper
		cached, live client.Reader
		pool         *unstructured.Unstructured
		want, fails  bool
	}{
		"in the cache":                     {kinds(), server(t, lab(inCluster, nil)), failing, lab(inCluster, nil), true, false},
		"not in the cache yet":             {kinds(), none, server(t, lab(inCluster, nil)), lab(inCluster, nil), true, false},
		"of all namespaces":                {kinds(), server(t, lab(global, nil)), failing, lab(global, nil), true, false},
		"of a kind that is not watched":    {kinds(), failing, server(t, lab(rangeKind, nil)), lab(rangeKind, nil), true, false},
		"that does not exist":              {kinds(), none, none, lab(inCluster, nil), false, false},
		"of a kind that is not served":     {kinds("Range"), failing, failing, lab(rangeKind, nil), false, false},
		"that cannot be asked for":         {kinds(), none, failing, lab(inCluster, nil), false, true},
		"of a kind that cannot be known":   {unknowing{failure: errors.New("the API server is away")}, none, none, lab(inCluster, nil), false, true},
		"of which the cache tells nothing": {kinds(), failing, none, lab(inCluster, nil), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			want := wantOf(test.pool.GroupVersionKind())
			pool, err := Provider{Mapper: test.mapper}.Read(t.Context(), test.cached, test.live, "ns", want.Pool)
			if (err != nil) != test.fails || (pool != nil) != test.want {
				t.Errorf("got %v and error %v, want a pool: %t, an error: %t", pool, err, test.want, test.fails)
			}
		})
	}
}
