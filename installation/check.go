package installation

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/allocator/kube"
)

// State is what came of a check.
type State string

// The states of a check.
const (
	OK State = "ok"
	// Warning: it works, and will not do so for ever, or not as shipped.
	Warning State = "warning"
	Failed  State = "failed"
	// Unknown: it could not be looked at.
	Unknown State = "unknown"
)

// Finding is what one check has found.
type Finding struct {
	Check string
	State State
	// Found is what there is, and Remedy what to do about it.
	Found, Remedy string
}

// Checker looks whether an installation works.
type Checker struct {
	Client client.Client
	// Namespace is where the trial machine is asked for.
	Namespace string
	// Version is that of who looks.
	Version string
	Now     func() time.Time
}

// timeToRenew is how long before its end a certificate should have been renewed: cert-
// manager does it 30 days before.
const timeToRenew = 7 * 24 * time.Hour

// Check runs all checks. The error says that nothing could be found out.
func (c Checker) Check(ctx context.Context) ([]Finding, error) {
	found, err := Find(ctx, c.Client)
	if apierrors.IsForbidden(err) {
		return []Finding{unknown("installation", err)}, nil
	}
	if err != nil {
		return nil, err
	}
	findings := []Finding{
		c.apis(), deployment(found), c.webhook(found), c.authority(found), c.capacity(found), c.certificate(ctx, found),
		c.endpoints(ctx, found), c.leader(ctx, found), c.call(ctx, found),
	}
	return slices.DeleteFunc(findings, func(f Finding) bool { return f.Check == "" }), nil
}

func unknown(check string, err error) Finding {
	return Finding{
		Check: check, State: Unknown, Found: err.Error(),
		Remedy: "ask somebody who may; docs/plugin.md lists the rights that check needs",
	}
}

// claimKinds are the claim APIs, one of which is needed.
var claimKinds = []schema.GroupKind{
	{Group: "ipam.metal3.io", Kind: "IPClaim"},
	{Group: "ipam.cluster.x-k8s.io", Kind: "IPAddressClaim"},
}

// poolKinds are the pools of the providers that we know.
var poolKinds = []schema.GroupKind{
	{Group: "ipam.metal3.io", Kind: "IPPool"},
	{Group: "ipam.cluster.x-k8s.io", Kind: "InClusterIPPool"},
	{Group: "ipam.cluster.x-k8s.io", Kind: "GlobalInClusterIPPool"},
}

// apis looks for the APIs that we work on.
func (c Checker) apis() Finding {
	f := Finding{Check: "apis", State: OK}
	for _, kind := range []schema.GroupKind{capi.ClusterKind, capi.VSphereMachineKind} {
		served, err := c.serves(kind)
		if err != nil {
			return unknown(f.Check, err)
		}
		if !served {
			return Finding{
				Check: f.Check, State: Failed, Found: fmt.Sprintf("the cluster serves no %s", kind.Kind),
				Remedy: "install Cluster API and CAPV: clusterctl init --infrastructure vsphere",
			}
		}
	}
	claims, pools := 0, ""
	for _, kind := range claimKinds {
		served, err := c.serves(kind)
		if err != nil {
			return unknown(f.Check, err)
		}
		if served {
			claims++
		}
	}
	for _, kind := range poolKinds {
		served, err := c.serves(kind)
		if err != nil {
			return unknown(f.Check, err)
		}
		if served {
			pools += " " + kind.Kind
		}
	}
	if claims == 0 || pools == "" {
		f.State, f.Found = Warning, "no pools of metal3 or of the in-cluster provider are served"
		f.Remedy = "install an IPAM provider, for example: clusterctl init --ipam in-cluster"
		return f
	}
	f.Found = "pools of these kinds are served:" + pools
	return f
}

func (c Checker) serves(kind schema.GroupKind) (bool, error) {
	_, err := c.Client.RESTMapper().RESTMapping(kind)
	if kube.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", kind, err)
	}
	return true, nil
}

func deployment(found *Found) Finding {
	f := Finding{Check: "deployment", State: Failed}
	if found.Deployment == nil {
		f.Found = fmt.Sprintf("there is no Deployment %s in namespace %s", DeploymentName, found.Namespace)
		f.Remedy = "install capv-static-ip: see docs/install.md"
		return f
	}
	d := found.Deployment
	f.Found = fmt.Sprintf("%s/%s: %d of %d replicas are ready, image %s", d.Namespace, d.Name, d.Status.ReadyReplicas, d.Status.Replicas, found.Image())
	f.Remedy = fmt.Sprintf("kubectl -n %s describe pods -l %s=%s", d.Namespace, AppLabel, App)
	available := slices.ContainsFunc(d.Status.Conditions, func(condition appsv1.DeploymentCondition) bool {
		return condition.Type == appsv1.DeploymentAvailable && condition.Status == corev1.ConditionTrue
	})
	switch {
	case d.Spec.Replicas != nil && *d.Spec.Replicas == 0:
		f.Remedy = fmt.Sprintf("kubectl -n %s scale deployment/%s --replicas=2", d.Namespace, d.Name)
	case !available || d.Status.ReadyReplicas == 0:
	case d.Status.ObservedGeneration < d.Generation || d.Status.ReadyReplicas < d.Status.Replicas || d.Status.UpdatedReplicas < d.Status.Replicas:
		f.State = Warning
		f.Found += "; a roll-out is under way, or stuck"
	default:
		f.State, f.Remedy = OK, ""
	}
	return f
}

// endpoints counts the Pods that the Service of the webhook leads to.
func (c Checker) endpoints(ctx context.Context, found *Found) Finding {
	const check = "endpoints"
	if found.Webhook == nil || len(found.Webhook.Webhooks) == 0 {
		return Finding{}
	}
	service := found.Webhook.Webhooks[0].ClientConfig.Service
	if service == nil {
		return Finding{Check: check, State: OK, Found: "the API server calls an URL, and no Service"}
	}
	slices := &discoveryv1.EndpointSliceList{}
	err := c.Client.List(ctx, slices, client.InNamespace(service.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service.Name})
	if err != nil {
		return unknown(check, fmt.Errorf("listing the EndpointSlices of Service %s/%s: %w", service.Namespace, service.Name, err))
	}
	ready := 0
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				ready += len(endpoint.Addresses)
			}
		}
	}
	f := Finding{Check: check, State: OK, Found: fmt.Sprintf("Service %s/%s has %d ready", service.Namespace, service.Name, ready)}
	if ready == 0 {
		f.State, f.Remedy = Failed, fmt.Sprintf("kubectl -n %s get service,endpointslices,pods -l %s=%s", service.Namespace, AppLabel, App)
	}
	return f
}

// leader looks who leads. The clocks of who looks and of the cluster may differ, so a
// lease that looks old is a warning.
func (c Checker) leader(ctx context.Context, found *Found) Finding {
	const check, late = "leader", time.Minute
	if manager := found.manager(); manager != nil && slices.Contains(manager.Args, "--leader-elect=false") {
		return Finding{Check: check, State: OK, Found: "there is no election: --leader-elect=false"}
	}
	lease := &coordinationv1.Lease{}
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: found.Namespace, Name: LeaseName}, lease)
	remedy := fmt.Sprintf("kubectl -n %s logs deployment/%s --all-pods", found.Namespace, DeploymentName)
	switch {
	case apierrors.IsNotFound(err):
		return Finding{Check: check, State: Failed, Found: "nobody has led yet", Remedy: remedy}
	case err != nil:
		return unknown(check, fmt.Errorf("reading Lease %s/%s: %w", found.Namespace, LeaseName, err))
	case lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "":
		return Finding{Check: check, State: Failed, Found: "nobody leads: the last leader has given up", Remedy: remedy}
	case lease.Spec.RenewTime == nil || c.Now().Sub(lease.Spec.RenewTime.Time) > late:
		return Finding{
			Check: check, State: Warning, Found: fmt.Sprintf("%s leads, but its lease is from %s", *lease.Spec.HolderIdentity, lease.Spec.RenewTime),
			Remedy: remedy + "; if it is renewed there, your clock and the cluster's differ",
		}
	}
	return Finding{Check: check, State: OK, Found: *lease.Spec.HolderIdentity}
}
