package installation

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/kube"
)

// Owner is who installed us, and may bring back what somebody else deletes.
type Owner struct {
	// Name is who it is, in words.
	Name string
	// Stop is what to type so that it brings nothing back, empty if it does not do so by
	// itself.
	Stop string
	// After is what to type when we are gone, so that it forgets us.
	After string
}

// marks are the labels and annotations by which installers know their objects, the one
// that acts last first: a chart that Flux installs has the marks of Helm, too.
var marks = []struct {
	// name and namespace are keys of labels or annotations.
	name, namespace string
	owner           func(namespace, name string) Owner
}{
	{"helm.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/namespace", func(namespace, name string) Owner {
		return flux("HelmRelease", namespace, name)
	}},
	{"kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace", func(namespace, name string) Owner {
		return flux("Kustomization", namespace, name)
	}},
	{"argocd.argoproj.io/tracking-id", "", func(_, name string) Owner { return argo(name) }},
	{"argocd.argoproj.io/instance", "", func(_, name string) Owner { return argo(name) }},
	{"meta.helm.sh/release-name", "meta.helm.sh/release-namespace", func(namespace, name string) Owner {
		return Owner{
			Name:  fmt.Sprintf("release %q of Helm in namespace %q", name, namespace),
			After: fmt.Sprintf("helm uninstall %s --namespace %s", name, namespace),
		}
	}},
	// Nothing of ours sets it; it is what Argo CD tracks by, where it was not told otherwise.
	{"app.kubernetes.io/instance", "", func(_, name string) Owner { return argo(name) }},
}

func flux(kind, namespace, name string) Owner {
	object := strings.ToLower(kind)
	return Owner{
		Name:  fmt.Sprintf("%s %q of Flux in namespace %q", kind, name, namespace),
		Stop:  fmt.Sprintf("flux suspend %s %s --namespace %s", object, name, namespace),
		After: fmt.Sprintf("take it out of its source, then: flux resume %s %s --namespace %s", object, name, namespace),
	}
}

func argo(name string) Owner {
	return Owner{
		Name:  fmt.Sprintf("application %q of Argo CD", name),
		Stop:  fmt.Sprintf("argocd app set %s --sync-policy none", name),
		After: fmt.Sprintf("argocd app delete %s --cascade=false", name),
	}
}

// providerKinds are the objects by which clusterctl and the operator of Cluster API know
// what they have installed.
var providerKinds = []schema.GroupKind{
	{Group: "operator.cluster.x-k8s.io", Kind: "AddonProvider"},
	{Group: "turtles-capi.cattle.io", Kind: "CAPIProvider"},
	{Group: "clusterctl.cluster.x-k8s.io", Kind: "Provider"},
}

// ProviderLabel is on everything that clusterctl installs, with the value Provider.
const (
	ProviderLabel = "cluster.x-k8s.io/provider"
	Provider      = "addon-capv-static-ip"
)

// OwnersOf are those who installed these objects of ours, each once.
func OwnersOf(ctx context.Context, c client.Client, objects []client.Object) ([]Owner, error) {
	owners := MakersOf(objects)
	for _, kind := range providerKinds {
		found, err := providers(ctx, c, kind)
		if err != nil {
			return nil, err
		}
		for _, provider := range found {
			owners = withOwner(owners, ownerOf(provider))
		}
	}
	return owners, nil
}

// MakersOf are those who installed these objects, whosever they are, by what they wrote on
// them, each once.
func MakersOf(objects []client.Object) []Owner {
	var owners []Owner
	for _, object := range objects {
		if owner, ok := marked(object); ok {
			owners = withOwner(owners, owner)
		}
		if by := metav1.GetControllerOf(object); by != nil {
			owners = withOwner(owners, Owner{
				Name: fmt.Sprintf("%s %q", word(by.Kind), by.Name),
				Stop: fmt.Sprintf("see to it that %s %s does not make it anew", word(by.Kind), word(by.Name)),
			})
		}
	}
	return owners
}

func withOwner(owners []Owner, owner Owner) []Owner {
	if slices.ContainsFunc(owners, func(known Owner) bool { return known.Name == owner.Name }) {
		return owners
	}
	return append(owners, owner)
}

// isName tells whether a text is what installers call things. What it becomes part of is
// typed into a shell by administrators, and whoever may annotate an object wrote it.
var isName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`).MatchString

// word is a text that was not looked at when it was stored, as it can be shown.
func word(text string) string {
	if isName(text) {
		return text
	}
	return strconv.Quote(text)
}

func marked(object client.Object) (Owner, bool) {
	value := func(key string) string {
		if text := object.GetAnnotations()[key]; text != "" {
			return text
		}
		return object.GetLabels()[key]
	}
	for _, mark := range marks {
		text, namespace := value(mark.name), value(mark.namespace)
		// Argo CD goes on with which object it is.
		name, _, _ := strings.Cut(text, ":")
		switch {
		case text == "":
		case isName(name) && (isName(namespace) || namespace == ""):
			return mark.owner(namespace, name), true
		default:
			return Owner{Name: fmt.Sprintf("somebody whose mark %s is no name: %q, %q", mark.name, text, namespace)}, true
		}
	}
	return Owner{}, false
}

// providers are the objects of a kind that stand for us. A kind that is not served has
// none.
func providers(ctx context.Context, c client.Client, kind schema.GroupKind) ([]*unstructured.Unstructured, error) {
	mapping, err := c.RESTMapper().RESTMapping(kind)
	if kube.IsAbsent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", kind, err)
	}
	empty := &unstructured.Unstructured{}
	empty.SetGroupVersionKind(mapping.GroupVersionKind)
	objects, err := kube.List(ctx, c, empty)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", mapping.Resource.GroupResource(), err)
	}
	var ours []*unstructured.Unstructured
	for _, object := range objects {
		provider := object.(*unstructured.Unstructured)
		name, _, _ := unstructured.NestedString(provider.Object, "providerName")
		if name == App || (name == "" && provider.GetName() == App) {
			ours = append(ours, provider)
		}
	}
	return ours, nil
}

func ownerOf(provider *unstructured.Unstructured) Owner {
	where := fmt.Sprintf("--namespace %s", provider.GetNamespace())
	if provider.GroupVersionKind().Group != "clusterctl.cluster.x-k8s.io" {
		kind := strings.ToLower(provider.GetKind())
		return Owner{
			Name:  fmt.Sprintf("%s %q of the operator of Cluster API in namespace %q", provider.GetKind(), provider.GetName(), provider.GetNamespace()),
			Stop:  "scale the Deployment of the operator to 0",
			After: fmt.Sprintf("kubectl delete %s %s %s, then scale the operator up again", kind, provider.GetName(), where),
		}
	}
	return Owner{
		Name:  fmt.Sprintf("clusterctl, by its Provider %q in namespace %q", provider.GetName(), provider.GetNamespace()),
		After: fmt.Sprintf("kubectl delete provider.clusterctl.cluster.x-k8s.io %s %s --ignore-not-found", provider.GetName(), where),
	}
}
