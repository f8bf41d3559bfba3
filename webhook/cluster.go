package webhook

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/machine"
)

// ClusterPath is where the API server sends VSphereClusters.
const ClusterPath = "/mutate-infrastructure-cluster-x-k8s-io-vspherecluster"

// EndpointDemand is what VSphereClusters ask for.
type EndpointDemand interface {
	// Endpoint is what is asked for the endpoint, nil if nothing, and the Cluster of
	// the VSphereCluster, nil if there is none. It fails with a Refusal if something
	// is asked for that cannot be given.
	Endpoint(ctx context.Context, c *machine.VSphereCluster) (*ipam.Ask, *capi.Cluster, error)
}

// ClusterHandler admits VSphereClusters whose endpoint is to be an address of a pool. What
// it does not do in its own way it does as the handler of machines.
type ClusterHandler struct {
	*Handler
	Endpoints EndpointDemand
}

var _ admission.Handler = &ClusterHandler{}

// NewForClusters makes of the handler what a webhook server serves.
func NewForClusters(h *ClusterHandler) http.Handler {
	return bounded(&admission.Webhook{Handler: h, LogConstructor: clusterLogger})
}

func clusterLogger(base logr.Logger, req *admission.Request) logr.Logger {
	if req == nil {
		return base
	}
	return base.WithValues("VSphereCluster", klog.KRef(req.Namespace, req.Name), "requestUID", req.UID)
}

// Handle implements admission.Handler.
func (h *ClusterHandler) Handle(ctx context.Context, req admission.Request) admission.Response {
	start := time.Now()
	v := h.decide(ctx, req)
	response := h.respond(ctx, req, v)
	observe(req.Operation, v, time.Since(start))
	return response
}

func (h *ClusterHandler) decide(ctx context.Context, req admission.Request) verdict {
	switch req.Operation {
	case admissionv1.Create:
		return h.create(ctx, req)
	case admissionv1.Update:
		return h.update(ctx, req)
	default:
		return deny(badRequest{fmt.Errorf("operation %q is not one of CREATE and UPDATE", req.Operation)})
	}
}

// create gives a VSphereCluster that has no endpoint, and asks for one, an address.
func (h *ClusterHandler) create(ctx context.Context, req admission.Request) verdict {
	c, err := machine.DecodeVSphereCluster(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	c.Namespace = req.Namespace
	switch {
	case c.Host() != "":
		return allow()
	case h.Namespace != "" && h.Namespace != c.Namespace:
		return allow(fmt.Sprintf("this installation of capv-static-ip serves namespace %q only: no address is claimed", h.Namespace))
	case c.Name == "":
		return allow("metadata.generateName gives the VSphereCluster no name yet: its endpoint follows when its Cluster exists; set metadata.name to have it at once")
	}
	ask, cluster, err := h.Endpoints.Endpoint(ctx, c)
	if err != nil {
		return deny(err)
	}
	if ask == nil {
		return allow()
	}
	only, warning, err := h.judgeCluster(ctx, c, cluster)
	if err != nil {
		return deny(err)
	}
	if warning != "" {
		return allow(warning)
	}
	request := allocator.Request{
		Stamp:   ipam.Stamp{Time: time.Now(), Request: req.UID},
		Machine: c.Identity(cluster),
		Asks:    []ipam.Ask{*ask},
	}
	kept, err := h.Allocator.Kept(ctx, request.Machine, only)
	if err != nil {
		return deny(err)
	}
	if kept != nil {
		v, err := withEndpoint(req.Object.Raw, c.Name, *kept)
		if err != nil {
			return deny(err)
		}
		return v
	}
	if isDryRun(req) {
		return h.preview(ctx, request)
	}
	return h.claimEndpoint(ctx, req.Object.Raw, request, only)
}

// judgeCluster says, in a warning, why a VSphereCluster is left alone for the sake of its
// Cluster, or which address is the only one for it, see machine.EndpointFor.
func (h *ClusterHandler) judgeCluster(ctx context.Context, c *machine.VSphereCluster, cluster *capi.Cluster) (only netip.Addr, warning string, err error) {
	var held []ipam.Binding
	if cluster != nil && cluster.Spec.ControlPlaneEndpoint.Host != "" {
		if held, err = h.Allocator.Held(ctx, c.Identity(cluster), ""); err != nil {
			return netip.Addr{}, "", err
		}
	}
	only, warning = machine.EndpointFor(cluster, held)
	return only, warning, nil
}

// claimEndpoint claims the address and writes it into the VSphereCluster. If only one is
// valid, it must be that one.
func (h *ClusterHandler) claimEndpoint(ctx context.Context, raw []byte, request allocator.Request, only netip.Addr) verdict {
	return h.claimThen(ctx, request, func(bindings []ipam.Binding) (verdict, error) {
		b := bindings[0]
		if err := machine.CheckEndpoint(b, only, request.Machine.Cluster); err != nil {
			return verdict{}, err
		}
		return withEndpoint(raw, request.Machine.Name, b)
	})
}

// withEndpoint admits a VSphereCluster with the address of a binding.
func withEndpoint(raw []byte, name string, b ipam.Binding) (verdict, error) {
	patch, err := machine.PatchFor(raw, func(doc machine.Document) error { return machine.InjectEndpoint(doc, name, b) })
	return verdict{patch: patch}, err
}

// update keeps the endpoint that a VSphereCluster holds. What it holds is in its
// annotation, or only its address tells of it.
func (h *ClusterHandler) update(ctx context.Context, req admission.Request) verdict {
	before, err := machine.DecodeVSphereCluster(req.OldObject.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	after, err := machine.DecodeVSphereCluster(req.Object.Raw)
	if err != nil {
		return deny(badRequest{err})
	}
	before.Namespace = req.Namespace
	bound, err := h.boundTo(ctx, before)
	if err != nil {
		return deny(err)
	}
	if bound == nil || !after.DeletionTimestamp.IsZero() {
		return allow()
	}
	patch, err := machine.PatchFor(req.Object.Raw, func(doc machine.Document) error {
		return machine.PinEndpoint(before, after, *bound, doc)
	})
	if err != nil {
		return deny(err)
	}
	return verdict{patch: patch}
}

// boundTo is the binding of the host that a VSphereCluster has, nil if the host is
// its user's own.
func (h *ClusterHandler) boundTo(ctx context.Context, c *machine.VSphereCluster) (*ipam.Binding, error) {
	ip := capi.ParseAddress(c.Host())
	if b, ok := c.Bound(); ok && b.Address.Addr() == ip {
		return &b, nil
	}
	held, err := h.Allocator.Held(ctx, c.Identity(nil), "")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(held, func(b ipam.Binding) bool { return b.Address.Addr() == ip })
	if i < 0 {
		return nil, nil
	}
	return &held[i], nil
}
