package inventory

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

// paged is an API server that has many claims, and gives them out by pages.
type paged struct {
	count int
	// limits are those of the lists that were asked for.
	limits []int64
	// expires is the page after which what comes next cannot be had any more, 0 for none.
	expires int
}

func (p *paged) list(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
	claims, ok := list.(*ipamv1.IPClaimList)
	if !ok {
		return c.List(ctx, list, opts...)
	}
	options := &client.ListOptions{}
	options.ApplyOptions(opts)
	p.limits = append(p.limits, options.Limit)
	from := 0
	if options.Continue != "" {
		if p.expires > 0 && len(p.limits) > p.expires {
			return apierrors.NewResourceExpired("the token is too old")
		}
		from, _ = strconv.Atoi(options.Continue)
	}
	to := p.count
	if options.Limit > 0 {
		to = min(to, from+int(options.Limit))
	}
	for n := from; n < to; n++ {
		claim := ipamv1.IPClaim{}
		claim.Namespace, claim.Name = "default", fmt.Sprintf("claim-%d", n)
		claim.Spec.Pool.Name = "lab"
		claims.Items = append(claims.Items, claim)
	}
	if claims.Continue = ""; to < p.count {
		claims.Continue = strconv.Itoa(to)
	}
	return nil
}

func (p *paged) read(t *testing.T) []string {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	pool := metal3Pool("10.0.0.2", "10.0.0.5", nil)
	pool.SetNamespace("default")
	pool.SetName("lab")
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(pool).Build(), interceptor.Funcs{List: p.list})
	g, err := Source{Client: c, Reader: c, Providers: ipam.Providers{metal3.Provider{}}, PageSize: PageSize, Now: time.Now}.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, claim := range g.Pools[0].Claims {
		names = append(names, claim.GetName())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestManyObjectsAreReadByPages(t *testing.T) {
	p := &paged{count: 1200}
	if got := p.read(t); len(got) != p.count || !slices.Equal(p.limits, []int64{500, 500, 500}) {
		t.Errorf("%d claims were read in pages of %v, want all in three of 500", len(got), p.limits)
	}
}

func TestPageThatHasExpiredHasAllReadAtOnce(t *testing.T) {
	p := &paged{count: 1200, expires: 1}
	if got := p.read(t); len(got) != p.count || !slices.Equal(p.limits, []int64{500, 500, 0}) {
		t.Errorf("%d claims were read in pages of %v, want all, and all at once after the page that had expired", len(got), p.limits)
	}
}
