package web

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

// foundMost is how many objects a search shows.
const foundMost = 100

func objectHref(kind, namespace, name string) string {
	return "/objects/" + url.PathEscape(kind) + "/" + escaped(namespace, name)
}

func addressHref(ip netip.Addr) string { return "/addresses/" + ip.String() }

// told is a story of an inventory for a page.
func told(of inventory.Story, links []Link) Story {
	s := Story{Title: of.Title, Next: of.Next, Links: links}
	for _, page := range of.See {
		s.Links = append(s.Links, Link{Text: page, Href: page})
	}
	for _, text := range of.Lines {
		line := Line{Text: strings.TrimLeft(text, " ")}
		line.Depth = min(3, (len(text)-len(line.Text))/2)
		line.Wrong = strings.HasPrefix(line.Text, "!")
		s.Lines = append(s.Lines, line)
	}
	return s
}

func addressStory(g *inventory.Graph, ip netip.Addr) Story {
	var links []Link
	for _, p := range g.PoolsWith(ip) {
		link := Link{Text: p.String(), Href: hrefOf(p.PoolKey)}
		if ip.Is4() {
			link.Href += "?block=" + prefixOf(ip, blockBits).Addr().String()
		}
		links = append(links, link)
	}
	for _, s := range g.Sightings(ip) {
		if s.Kind == capi.VSphereMachineKind.Kind {
			links = append(links, Link{Text: s.Kind + " " + s.String(), Href: objectHref(s.Kind, s.Namespace, s.Name)})
		}
	}
	return told(g.Who(ip), links)
}

// objectStory explains an object, false if there is none of this kind and name.
func objectStory(g *inventory.Graph, kind string, key types.NamespacedName) (Story, bool) {
	switch kind {
	case capi.VSphereMachineKind.Kind:
		if m := g.Machine(key); m != nil {
			return told(g.ExplainMachine(m), machineLinks(g, m)), true
		}
	default:
		for _, w := range g.Workloads {
			if w.GetKind() == kind && w.GetNamespace() == key.Namespace && w.GetName() == key.Name {
				return told(g.ExplainWorkload(w), workloadLinks(g, w)), true
			}
		}
		for _, owner := range g.Owners {
			if owner.Kind == kind && owner.Namespace == key.Namespace && owner.Name == key.Name {
				return told(g.ExplainOwner(kind, key), nil), true
			}
		}
	}
	return Story{}, false
}

func machineLinks(g *inventory.Graph, m *inventory.Machine) []Link {
	var links []Link
	for _, b := range m.Bindings {
		links = append(links, Link{Text: b.Address.Addr().String(), Href: addressHref(b.Address.Addr())})
		if p := g.PoolOf(m.Namespace, b.Pool); p != nil {
			links = append(links, Link{Text: p.String(), Href: hrefOf(p.PoolKey)})
		}
	}
	return links
}

func workloadLinks(g *inventory.Graph, w *inventory.Workload) []Link {
	var links []Link
	for _, d := range g.Demands() {
		if d.Workload == w {
			links = append(links, Link{Text: d.Pool.String(), Href: hrefOf(d.Pool.PoolKey)})
		}
	}
	return links
}

// find is what a person may mean by what they typed: an address, or a part of the name of a
// pool, a machine, what makes machines, or a Cluster.
func find(g *inventory.Graph, text string) Story {
	s := Story{Title: fmt.Sprintf("Found for %q", text)}
	if ip, err := netip.ParseAddr(text); err == nil {
		s.Links = []Link{{Text: ip.String(), Href: addressHref(ip.Unmap().WithZone(""))}}
		return s
	}
	text = strings.ToLower(text)
	add := func(link Link, names ...string) {
		for _, name := range names {
			if text != "" && strings.Contains(strings.ToLower(name), text) {
				s.Links = append(s.Links, link)
				return
			}
		}
	}
	for _, p := range g.Pools {
		add(Link{Text: p.String(), Href: hrefOf(p.PoolKey)}, p.Name, p.String())
	}
	for _, w := range g.Workloads {
		name := path(w.GetNamespace(), w.GetName())
		add(Link{Text: w.GetKind() + " " + name, Href: objectHref(w.GetKind(), w.GetNamespace(), w.GetName())}, name, w.Cluster)
	}
	for _, m := range g.Machines {
		name := path(m.Namespace, m.Name)
		add(Link{Text: capi.VSphereMachineKind.Kind + " " + name, Href: objectHref(capi.VSphereMachineKind.Kind, m.Namespace, m.Name)},
			name, m.Labels[clusterv1.ClusterNameLabel])
	}
	switch {
	case len(s.Links) == 0:
		s.Lines = []Line{{Text: "Nothing here is called so. Type an address, or a part of the name of a pool, a machine, what makes machines, or a Cluster."}}
	case len(s.Links) > foundMost:
		s.Lines = []Line{{Text: fmt.Sprintf("These are %d of %d.", foundMost, len(s.Links))}}
		s.Links = s.Links[:foundMost]
	}
	return s
}
