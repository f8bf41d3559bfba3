package inventory

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/allocator/ipam/metal3"
)

func TestReadNotesAKindThatIsForbidden(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := ipamv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	pool := metal3Pool("10.0.0.2", "10.0.0.5", nil)
	pool.SetNamespace("default")
	pool.SetName("lab")
	c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(scheme).WithObjects(pool).Build(), interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if _, ok := list.(*ipamv1.IPClaimList); ok {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "ipclaims"}, "", nil)
			}
			return c.List(ctx, list, opts...)
		},
	})
	g, err := Source{Client: c, Reader: c, Providers: ipam.Providers{metal3.Provider{}}, Now: time.Now}.Read(context.Background())
	if err != nil {
		t.Fatalf("one forbidden kind made the read fail: %v", err)
	}
	if len(g.Pools) != 1 {
		t.Errorf("%d pools were read, want the one that may be listed", len(g.Pools))
	}
	if !slices.ContainsFunc(g.Unseen, func(u Unseen) bool { return strings.HasPrefix(u.String(), "IPClaims cannot be listed: forbidden") }) {
		t.Errorf("nothing says that claims were left out: %v", g.Unseen)
	}
}
