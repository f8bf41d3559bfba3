package inventory

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"capv-static-ip.dev/allocator"
	"capv-static-ip.dev/allocator/ipam"
)

// frozenNamespaces reads which namespaces are frozen. Of those that may not be read nothing is
// said: it is in every denial, too.
func (s Source) frozenNamespaces(ctx context.Context, g *Graph) {
	note := func(namespace *metav1.PartialObjectMetadata) {
		if _, frozen := ipam.IsFrozen(namespace); frozen {
			g.frozen[namespace.Name] = namespace
		}
	}
	if s.Namespace != "" {
		namespace := allocator.Namespaces()
		if err := s.Reader.Get(ctx, types.NamespacedName{Name: s.Namespace}, namespace); err == nil {
			note(namespace)
		}
		return
	}
	all := allocator.NamespaceList()
	if err := s.Reader.List(ctx, all); err != nil {
		return
	}
	for i := range all.Items {
		note(&all.Items[i])
	}
}

// freezeOf is what freezes the claims of a namespace on a pool, as far as that is known. The
// manager's flag is not.
func (g *Graph) freezeOf(namespace string, pool *Pool) *ipam.Freeze {
	if object := g.frozen[namespace]; object != nil {
		return ipam.FrozenBy(ipam.Pool{}, object, "")
	}
	return ipam.FrozenBy(ipam.Pool{Object: pool.Object, Reference: pool.PoolReference}, nil, "")
}

// frozenNow finds what is frozen, so that nobody forgets to end it.
func (a *audit) frozenNow() []*Finding {
	const what = "is frozen%s: nothing is claimed, and nothing given back"
	said := func(f *Finding, why string) *Finding {
		if why != "" {
			why = " (" + why + ")"
		}
		return f.because(what, why).remedy("when that is over, take annotation %s off", ipam.FrozenAnnotation)
	}
	var findings []*Finding
	for _, pool := range a.Pools {
		if pool.Object == nil {
			continue
		}
		if why, frozen := ipam.IsFrozen(pool.Object); frozen {
			findings = append(findings, said(aboutPool(FrozenNow, pool), why))
		}
	}
	for name, object := range a.frozen {
		why, _ := ipam.IsFrozen(object)
		findings = append(findings, said(about(FrozenNow, Risky, Involved{Kind: "Namespace", NamespacedName: types.NamespacedName{Name: name}}), why))
	}
	return findings
}
