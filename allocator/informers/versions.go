package informers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// recheckInterval is the time after which a kind is tried again that its CRD serves
	// and discovery does not show yet.
	recheckInterval = time.Second
	// maxLooksForNew is how many looks a CRD has to be established, when it is new.
	maxLooksForNew = 5
	// maxLooks is how often it is asked what would be chosen now that a version is
	// not served any more: discovery shows that a little after the CRD.
	maxLooks = 30
)

// definition is what is read of a CRD.
type definition struct {
	established bool
	versions    []string
	// converted says that objects have another form in each version.
	converted  bool
	namespaced bool
}

func (d definition) serves(version string) bool {
	return d.established && slices.Contains(d.versions, version)
}

// define reads a CRD. Only its metadata is cached: there may be hundreds of them,
// some of a megabyte, and which versions are served changes once in a year.
func define(ctx context.Context, live client.Reader, name string) (definition, error) {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	if err := live.Get(ctx, client.ObjectKey{Name: name}, obj); err != nil {
		return definition{}, fmt.Errorf("reading CRD %s: %w", name, err)
	}
	var crd struct {
		Spec struct {
			Scope    apiextensionsv1.ResourceScope `json:"scope"`
			Versions []struct {
				Name   string `json:"name"`
				Served bool   `json:"served"`
			} `json:"versions"`
			Conversion struct {
				Strategy apiextensionsv1.ConversionStrategyType `json:"strategy"`
			} `json:"conversion"`
		} `json:"spec"`
		Status struct {
			Conditions []metav1.Condition `json:"conditions"`
		} `json:"status"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &crd); err != nil {
		return definition{}, fmt.Errorf("reading CRD %s: %w", name, err)
	}
	d := definition{
		established: meta.IsStatusConditionTrue(crd.Status.Conditions, string(apiextensionsv1.Established)),
		converted:   crd.Spec.Conversion.Strategy == apiextensionsv1.WebhookConverter,
		namespaced:  crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
	}
	for _, version := range crd.Spec.Versions {
		if version.Served {
			d.versions = append(d.versions, version.Name)
		}
	}
	return d, nil
}

// review checks whether a CRD serves the version of a kind that is used here. If it
// does not, and another version would be chosen now, the program has to be started
// again: its Deployment does that. Else that is said once, and nobody waits for
// the kind: what needs it is refused until the CRD changes.
//
// It also has to be started again when objects are converted between its version and one
// that would be chosen now: what is written then changes more than what was meant, which the
// policy on the manager's writes refuses.
func (k *Starter) review(ctx context.Context, gk schema.GroupKind, crd *metav1.PartialObjectMetadata) (reconcile.Result, error) {
	known := k.kinds[gk]
	if known.started && known.served == stateOf(crd) {
		return reconcile.Result{}, nil
	}
	if known.reviewed != stateOf(crd) {
		known.reviewed, known.looks = stateOf(crd), 0
	}
	d, err := define(ctx, k.live, crd.Name)
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if d.serves(known.version) {
		if known.started {
			if d.converted {
				if err := k.endIfChosenAnew(gk, d); err != nil {
					return reconcile.Result{}, err
				}
			}
			k.settle(gk, func(known *kind) { known.served, known.said = stateOf(crd), false })
			return reconcile.Result{}, nil
		}
		k.settle(gk, func(known *kind) { known.expected, known.said = true, false })
		klog.FromContext(ctx).V(2).Info("Kind is not served yet", "kind", gk.String())
		return reconcile.Result{RequeueAfter: recheckInterval}, nil
	}
	if known.looks++; d.established || known.looks > maxLooksForNew {
		k.say(ctx, gk, d)
	}
	if err := k.endIfChosenAnew(gk, d); err != nil {
		return reconcile.Result{}, err
	}
	if known.looks > maxLooks {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{RequeueAfter: recheckInterval}, nil
}

// endIfChosenAnew ends the program if a version of a kind would be chosen now that is not the
// one that was.
func (k *Starter) endIfChosenAnew(gk schema.GroupKind, d definition) error {
	known := k.kinds[gk]
	version, err := k.chosen(gk)
	if err != nil || version == known.version || !d.serves(version) {
		return err
	}
	instead := "and not in"
	if d.serves(known.version) {
		instead = "which is converted to"
	}
	k.end(fmt.Errorf("%s is served in version %s %s %s, which was chosen when this program started: "+
		"it ends, to be started again with the other version", gk, version, instead, known.version))
	return nil
}

// stateOf changes whenever somebody changes which versions a CRD serves.
func stateOf(crd *metav1.PartialObjectMetadata) string {
	return fmt.Sprintf("%s/%d", crd.UID, crd.Generation)
}

// say logs, once, that a kind cannot be used in the version that is used here.
func (k *Starter) say(ctx context.Context, gk schema.GroupKind, d definition) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.kinds[gk]
	if !known.said {
		klog.FromContext(ctx).Info("Kind is not served in the version that is used here: what needs it is refused or does not work",
			"kind", gk.String(), "version", known.version, "served", strings.Join(d.versions, ","))
	}
	known.said, known.expected = true, false
}

// chosen is the version of a kind that would be used if the program were started
// now: the same, for a kind of which only one version can be read.
func (k *Starter) chosen(gk schema.GroupKind) (string, error) {
	scheme, err := k.choose()
	if err != nil {
		return "", fmt.Errorf("choosing versions anew: %w", err)
	}
	current := k.kinds[gk].version
	choice := scheme.VersionsForGroupKind(gk)
	if len(choice) == 0 || slices.ContainsFunc(choice, func(gv schema.GroupVersion) bool { return gv.Version == current }) {
		return current, nil
	}
	return choice[0].Version, nil
}

// end ends the program with an error. The first reason is enough.
func (k *Starter) end(reason error) {
	select {
	case k.outdated <- reason:
	default:
	}
}
