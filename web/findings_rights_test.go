package web

import (
	"context"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	contractv1 "sigs.k8s.io/cluster-api/api/ipam/v1beta2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/tests/web/cluster"
)

// halfBlind may not list what calls the manager, nor VMs, and not watch endpoints.
func halfBlind(t *testing.T) client.WithWatch {
	t.Helper()
	forbidden := func(list client.ObjectList) error {
		switch list.(type) {
		case *admissionv1.MutatingWebhookConfigurationList, *capi.VSphereVMList:
			return apierrors.NewForbidden(schema.GroupResource{Resource: "all"}, "", nil)
		}
		return nil
	}
	c, err := cluster.New(fine()...)
	if err != nil {
		t.Fatal(err)
	}
	return interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if err := forbidden(list); err != nil {
				return err
			}
			return c.List(ctx, list, options...)
		},
	})
}

func TestWhatMayNotBeSeenIsSaidOnceWhereItMatters(t *testing.T) {
	s := serverOn(t, halfBlind(t))
	text, _ := s.page(t, "/findings")
	for _, want := range []string{
		"VSphereVMs cannot be listed: forbidden", "MutatingWebhookConfigurations cannot be listed: forbidden",
		"SIP-011 is left out: it needs MutatingWebhookConfigurations", "SIP-012 is left out: it needs VSphereVMs",
	} {
		if n := strings.Count(text, want); n != 1 {
			t.Errorf("the page says %q %d times: %s", want, n, text)
		}
	}
	if strings.Contains(text, "(none)") {
		t.Errorf("it says that there is nothing, and has not looked at all: %s", text)
	}
	for _, target := range []string{"/pools", "/pools/InClusterIPPool/default/workers"} {
		text, _ := s.page(t, target)
		if strings.Contains(text, "MutatingWebhookConfigurations") || strings.Count(text, "VSphereVMs cannot be listed: forbidden") != 1 {
			t.Errorf("%s says, of what may not be seen: %s", target, text)
		}
	}
	if unseen := strings.Join(s.Unseen(), "\n"); !strings.Contains(unseen, "MutatingWebhookConfigurations") {
		t.Errorf("the command says %q", unseen)
	}
}

func TestWhatIsWatchedForFindingsAloneIsSaidThere(t *testing.T) {
	c := inMemory(t, interceptor.Funcs{Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
		if _, ok := list.(*admissionv1.MutatingWebhookConfigurationList); ok {
			return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "mutatingwebhookconfigurations"}, "", nil)
		}
		return c.Watch(ctx, list, options...)
	}})
	s := serverOn(t, c)
	for target, want := range map[string]bool{"/findings": true, "/pools": false} {
		if text, _ := s.page(t, target); strings.Contains(text, "MutatingWebhookConfigurations cannot be watched") != want {
			t.Errorf("%s says: %s", target, text)
		}
	}
}

// An empty namespace may be looked at by who may see nothing of the cluster.
func TestEmptyNamespaceNeedsNoRightsOnWebhooks(t *testing.T) {
	c, err := cluster.New()
	if err != nil {
		t.Fatal(err)
	}
	c = interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if _, ok := list.(*admissionv1.MutatingWebhookConfigurationList); ok {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "mutatingwebhookconfigurations"}, "", nil)
			}
			return c.List(ctx, list, options...)
		},
	})
	if text, _ := serverOn(t, c).page(t, "/pools"); !strings.Contains(text, "There are no pools here.") {
		t.Errorf("the page says %s", text)
	}
}

// How full a pool of all namespaces is takes what it gave to others, whose machines are not
// looked at.
func TestWhatOtherNamespacesHaveIsNoFindingOfOne(t *testing.T) {
	claim := &contractv1.IPAddressClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "m-0"}}
	claim.Spec.PoolRef = contractv1.IPPoolReference{APIGroup: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool", Name: "shared"}
	ipam.Mark(claim, ipam.Machine{NamespacedName: types.NamespacedName{Namespace: "other", Name: "m"}})
	ipam.Use(claim, ipam.Stamp{Request: "r"})
	address := cluster.Address("other", cluster.Global("shared"), "10.0.0.3", "m-0")
	c, err := cluster.New(append(cluster.Webhook(), cluster.InClusterPool("", "shared", "10.0.0.1", "10.0.0.2-10.0.0.9", 24), claim, address)...)
	if err != nil {
		t.Fatal(err)
	}
	for namespace, want := range map[string]int{"": 1, "default": 0} {
		source := cluster.Source(c)
		source.Namespace = namespace
		s, err := NewServer(t.Context(), Options{Source: source, Client: c})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.listen.Close()
		if _, elements := lookAgain(t, s).page(t, "/findings"); len(found(elements)) != want {
			t.Errorf("of namespace %q got %q, want %d", namespace, rows(elements), want)
		}
		if _, elements := s.page(t, "/pools"); !slices.ContainsFunc(rows(elements), func(row string) bool { return strings.Contains(row, "all 8 1 0 7 0") }) {
			t.Errorf("of namespace %q it is as full as %q, want 1 of 8", namespace, rows(elements))
		}
	}
}
