package informers

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Defined is a mapper that knows the versions of kinds which their CRDs serve, whether
// discovery shows them yet or not: an API server that has just started shows one version
// after the other, and whoever chooses among them then would keep to an older one.
type Defined struct {
	meta.RESTMapper
	define func(crd string) (definition, error)
}

// NewDefined makes a mapper that asks another one first, and then CRDs, until the context ends.
func NewDefined(ctx context.Context, discovered meta.RESTMapper, live client.Reader) *Defined {
	return &Defined{discovered, func(crd string) (definition, error) { return define(ctx, live, crd) }}
}

// RESTMapping implements meta.RESTMapper.
func (d *Defined) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	mapping, err := d.RESTMapper.RESTMapping(kind, versions...)
	if !meta.IsNoMatchError(err) {
		return mapping, err
	}
	crd, readErr := d.define(crdOf(kind))
	if readErr != nil {
		if apierrors.IsNotFound(readErr) {
			return nil, err
		}
		return nil, readErr
	}
	for _, version := range versions {
		if !crd.serves(version) {
			continue
		}
		resource, _ := meta.UnsafeGuessKindToResource(kind.WithVersion(version))
		mapping = &meta.RESTMapping{Resource: resource, GroupVersionKind: kind.WithVersion(version), Scope: meta.RESTScopeRoot}
		if crd.namespaced {
			mapping.Scope = meta.RESTScopeNamespace
		}
		return mapping, nil
	}
	return nil, err
}

// crdOf is the name of the CRD of a kind. CRDs are named <plural>.<group>, and all our kinds
// have regular plurals.
func crdOf(kind schema.GroupKind) string {
	plural, _ := meta.UnsafeGuessKindToResource(kind.WithVersion(""))
	return plural.Resource + "." + kind.Group
}
