package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	ipamv1 "github.com/metal3-io/ip-address-manager/api/v1alpha1"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam/contract"
	product "capv-static-ip.dev/inventory"
)

// AwaitAgreement is AwaitInvariants, and sees that the product's own audit is of the same
// mind as the invariants here, which share no code with it: it finds no error where they
// hold, and one where I1, I2 or I3 does not.
func (c *ControlPlane) AwaitAgreement(ctx context.Context, timeout time.Duration, options InvariantOptions) error {
	broken := AwaitInvariants(ctx, c.Client, timeout, options)
	auditor, err := c.auditClient()
	if err != nil {
		return errors.Join(broken, fmt.Errorf("making a client for the audit: %w", err))
	}
	return errors.Join(broken, Disagreement(ctx, auditor, broken, options, product.SecondLook))
}

// Disagreement is nil if the product's audit of what a client reads comes to the same as the
// invariants did: what was found broken, or nil. The audit looks a second time after a pause.
func Disagreement(ctx context.Context, c client.Client, broken error, options InvariantOptions, pause time.Duration) error {
	namespaces := options.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var found []string
	for _, namespace := range namespaces {
		failing, err := auditErrors(ctx, c, namespace, options, pause)
		if err != nil {
			return err
		}
		found = append(found, failing...)
	}
	switch {
	case broken == nil && len(found) > 0:
		return fmt.Errorf("the invariants hold, and the audit says: %q", found)
	case mustBeSeen(broken) && len(found) == 0:
		return errors.New("an invariant is violated, and the audit finds no error")
	}
	return nil
}

// mustBeSeen tells whether a violation is one that the audit looks for.
func mustBeSeen(broken error) bool {
	var violated *Violation
	return errors.As(broken, &violated) && slices.Contains([]string{invariantUnique, invariantHeld, invariantNoOrphans}, violated.Invariant)
}

// auditErrors are the errors that the product finds in a namespace, empty for all.
func auditErrors(ctx context.Context, c client.Client, namespace string, options InvariantOptions, pause time.Duration) ([]string, error) {
	source := product.Source{Client: c, Reader: c, Namespace: namespace, Providers: Providers, Now: time.Now}
	// How machines get to the manager is not told by what there is of addresses.
	checks := slices.DeleteFunc(product.CheckIDs(), func(id product.CheckID) bool { return id == product.WebhookUnready })
	report, err := source.Audit(ctx, product.Limits{Claim: options.GracePeriod, ReuseAfter: options.ReuseAfter}, pause, checks...)
	if err != nil {
		return nil, fmt.Errorf("auditing namespace %q: %w", namespace, err)
	}
	var found []string
	for _, f := range report.Findings {
		if f.Severity == product.Failing && !isOfByHand(report.Graph, f) {
			found = append(found, fmt.Sprintf("%s %s %s", f.Check, f.Object, f.Text))
		}
	}
	return found, nil
}

// isOfByHand tells whether a finding is about a VM with ByHandAnnotation, of which only
// tests know.
func isOfByHand(graph *product.Graph, f product.Finding) bool {
	return slices.ContainsFunc(graph.VMs, func(vm *capi.VSphereVM) bool {
		return vm.Annotations[ByHandAnnotation] != "" &&
			slices.Contains(f.Involved, product.Involved{Kind: capi.VSphereVMKind.Kind, NamespacedName: client.ObjectKeyFromObject(vm)})
	})
}

// auditClient reads what the product reads, in its types.
func (c *ControlPlane) auditClient() (client.Client, error) {
	httpClient, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return nil, err
	}
	mapper, err := apiutil.NewDynamicRESTMapper(c.Config, httpClient)
	if err != nil {
		return nil, err
	}
	scheme, err := ProductScheme(mapper)
	if err != nil {
		return nil, err
	}
	return client.New(c.Config, client.Options{Scheme: scheme, Mapper: mapper, HTTPClient: httpClient})
}

// ProductScheme has the types of the product, in the versions that are served.
func ProductScheme(mapper meta.RESTMapper) (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, ipamv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	if err := capi.AddToScheme(scheme, mapper); err != nil {
		return nil, err
	}
	return scheme, contract.AddToScheme(scheme, mapper)
}
