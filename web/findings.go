package web

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go4.org/netipx"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
)

const (
	// findingsMost is how many findings one page shows, alsoMost how many links each of them
	// has, and besideMost how many are shown beside what they are about.
	findingsMost = 200
	alsoMost     = 6
	besideMost   = 5
)

// concern is a finding with the pages that it is about.
type concern struct {
	*inventory.Finding
	// id is that of its row, the same from one read to the next.
	id string
	// home leads to the page of its object, empty if there is none, and also to the others.
	home Link
	also []Link
	// pages are the paths of all of them.
	pages []string
}

// concernsOf are all findings of a report, in their order.
func concernsOf(graph *inventory.Graph, report *inventory.Report) []concern {
	at := sitesOf(graph)
	numbers := map[string]int{}
	concerns := make([]concern, 0, len(report.Findings))
	for i := range report.Findings {
		c := at.concern(&report.Findings[i])
		if numbers[c.id]++; numbers[c.id] > 1 {
			c.id += "-" + strconv.Itoa(numbers[c.id])
		}
		concerns = append(concerns, c)
	}
	return concerns
}

// sites are what there are pages of.
type sites struct {
	objects map[inventory.Involved]bool
	pools   map[inventory.PoolKey]bool
	ranges  []site
}

// site is a range of a pool.
type site struct {
	netipx.IPRange
	pool inventory.PoolKey
}

func sitesOf(g *inventory.Graph) sites {
	at := sites{objects: map[inventory.Involved]bool{}, pools: map[inventory.PoolKey]bool{}}
	for _, p := range g.Pools {
		at.pools[p.PoolKey] = true
		for _, r := range p.Ranges() {
			at.ranges = append(at.ranges, site{r, p.PoolKey})
		}
	}
	add := func(kind string, object client.Object) {
		at.objects[inventory.Involved{Kind: kind, NamespacedName: client.ObjectKeyFromObject(object)}] = true
	}
	for _, m := range g.Machines {
		add(capi.VSphereMachineKind.Kind, m)
	}
	for _, w := range g.Workloads {
		add(w.GetKind(), w)
	}
	for _, owner := range g.Owners {
		add(owner.Kind, owner)
	}
	return at
}

// concern has the pages of a finding: of its objects, its addresses, and its pools, which are
// also those that have its addresses in their ranges.
func (at sites) concern(f *inventory.Finding) concern {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(f.Object))
	c := concern{Finding: f, id: fmt.Sprintf("f-%s-%x", f.Check, hash.Sum64())}
	for _, object := range f.Involved {
		if at.objects[object] {
			c.leads(Link{Text: object.String(), Href: objectHref(object.Kind, object.Namespace, object.Name)}, object.String() == f.Object)
		}
	}
	pools := slices.Clone(f.Pools)
	for _, ip := range f.Addresses {
		c.leads(Link{Text: ip.String(), Href: addressHref(ip)}, ip.String() == f.Object)
		pools = append(pools, at.poolsWith(ip)...)
	}
	for _, key := range pools {
		if at.pools[key] {
			c.leads(Link{Text: key.String(), Href: hrefOf(key)}, key.KindName()+" "+path(key.Namespace, key.Name) == f.Object)
		}
	}
	// A claim, or an address object, has no page of its own.
	if c.home.Href == "" && len(c.also) > 0 {
		c.home, c.also = c.also[0], c.also[1:]
	}
	return c
}

// leads has a page be one of the finding's, once.
func (c *concern) leads(to Link, isHome bool) {
	switch {
	case slices.Contains(c.pages, to.Href):
		return
	case isHome:
		c.home = to
	default:
		c.also = append(c.also, to)
	}
	c.pages = append(c.pages, to.Href)
}

func (at sites) poolsWith(ip netip.Addr) []inventory.PoolKey {
	var pools []inventory.PoolKey
	for _, s := range at.ranges {
		if s.Contains(ip) {
			pools = append(pools, s.pool)
		}
	}
	return pools
}

// countOf says how many errors and warnings there are, empty if there are none.
func countOf(concerns []concern) string {
	count := map[inventory.Severity]int{}
	for _, c := range concerns {
		count[c.Severity]++
	}
	var parts []string
	for _, severity := range []inventory.Severity{inventory.Failing, inventory.Risky} {
		if count[severity] > 0 {
			parts = append(parts, plural(count[severity], string(severity)))
		}
	}
	return strings.Join(parts, ", ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// byPage are the findings that are about each page.
func byPage(concerns []concern) map[string][]concern {
	of := map[string][]concern{}
	for _, c := range concerns {
		for _, page := range c.pages {
			of[page] = append(of[page], c)
		}
	}
	return of
}

// beside is what a page shows of the findings that are about it.
func (s state) beside(page string) Beside {
	found, all := s.about[page], query{about: page}.href()
	b := Beside{Count: countOf(found), All: Link{Text: fmt.Sprintf("All %d findings", len(found)), Href: all}}
	if len(found) <= besideMost {
		b.All = Link{}
	}
	for _, c := range found[:min(besideMost, len(found))] {
		b.Rows = append(b.Rows, FindingRow{
			Severity: string(c.Severity), Check: string(c.Check), Object: Link{Text: c.Object}, Text: c.Text, Href: all + "#" + c.id,
		})
	}
	return b
}

// query is which findings to show: it is in the address of the page.
type query struct {
	severity, text, namespace string
	// about is the path of a page: those that it is about.
	about string
	// from is how many to leave out first.
	from int
}

func queryOf(values url.Values) query {
	q := query{
		severity: values.Get("severity"), text: strings.TrimSpace(values.Get("q")), namespace: values.Get("namespace"), about: values.Get("about"),
	}
	if q.severity != string(inventory.Failing) && q.severity != string(inventory.Risky) {
		q.severity = ""
	}
	q.from, _ = strconv.Atoi(values.Get("from"))
	q.from = max(0, q.from)
	return q
}

// href is the page of those that are asked for.
func (q query) href() string {
	values := url.Values{}
	for name, value := range map[string]string{"severity": q.severity, "q": q.text, "namespace": q.namespace, "about": q.about} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if q.from > 0 {
		values.Set("from", strconv.Itoa(q.from))
	}
	if len(values) == 0 {
		return "/findings"
	}
	return "/findings?" + values.Encode()
}

// of are those that are asked for, of all severities.
func (q query) of(concerns []concern) []concern {
	text := strings.ToLower(q.text)
	return slices.DeleteFunc(slices.Clone(concerns), func(c concern) bool {
		return q.about != "" && !slices.Contains(c.pages, q.about) ||
			q.namespace != "" && !slices.Contains(c.namespaces(), q.namespace) ||
			!strings.Contains(c.words(), text)
	})
}

// words are what is searched.
func (c concern) words() string {
	words := []string{string(c.Check), c.Check.Means(), string(c.Severity), c.Object, c.Text, c.Remedy}
	for _, object := range c.Involved {
		words = append(words, object.String())
	}
	for _, link := range c.also {
		words = append(words, link.Text)
	}
	return strings.ToLower(strings.Join(words, "\n"))
}

// namespaces are those that it is seen in.
func (c concern) namespaces() []string {
	namespaces := []string{c.Namespace}
	for _, object := range c.Involved {
		namespaces = append(namespaces, object.Namespace)
	}
	return namespaces
}

func findingsView(now state, q query) FindingsView {
	all := now.concerns
	v := FindingsView{
		Severity: q.severity, Text: q.text, Namespace: q.namespace, Namespaces: namespacesOf(all, q.namespace), About: q.about,
		LookedAt: lookedAt(now.graph), Unsure: now.unsure, Total: len(all),
	}
	for _, left := range now.report.LeftOut {
		v.LeftOut = append(v.LeftOut, left.String())
	}
	matching := q.of(all)
	v.Choices = choices(matching, q)
	shown := slices.DeleteFunc(slices.Clone(matching), func(c concern) bool { return q.severity != "" && string(c.Severity) != q.severity })
	v.Narrowed = q.severity != "" || q.text != "" || q.namespace != "" || q.about != ""
	if q.about != "" {
		v.AboutLink = pageNamed(all, q.about)
	}
	v.list(shown, q)
	return v
}

// list shows as many findings as a page has place for.
func (v *FindingsView) list(shown []concern, q query) {
	begin := min(q.from, len(shown))
	end := min(begin+findingsMost, len(shown))
	if end-begin < len(shown) {
		v.Part = fmt.Sprintf("These are %d to %d of %d.", begin+1, end, len(shown))
	}
	if end < len(shown) {
		q.from = end
		v.Next = q.href()
	}
	for _, c := range shown[begin:end] {
		row := FindingRow{
			ID: c.id, Severity: string(c.Severity), Check: string(c.Check), Means: c.Check.Means(), Object: Link{Text: c.Object, Href: c.home.Href},
			Text: c.Text, Remedy: c.Remedy, Also: c.also,
		}
		if more := len(c.also) - alsoMost; more > 0 {
			row.Also, row.More = c.also[:alsoMost], more
		}
		v.Rows = append(v.Rows, row)
	}
}

// choices are the severities, each with how many of what else is asked for have it.
func choices(matching []concern, q query) []Choice {
	count := map[string]int{}
	for _, c := range matching {
		count[string(c.Severity)]++
	}
	q.from = 0
	chosen := q.severity
	var all []Choice
	for _, severity := range []string{"", string(inventory.Failing), string(inventory.Risky)} {
		q.severity = severity
		text := plural(count[severity], severity)
		if severity == "" {
			text = fmt.Sprintf("all %d", len(matching))
		}
		all = append(all, Choice{Link: Link{Text: text, Href: q.href()}, Current: severity == chosen})
	}
	return all
}

// namespacesOf are those of findings, and the one that is asked for.
func namespacesOf(concerns []concern, asked string) []string {
	namespaces := []string{asked}
	for _, c := range concerns {
		namespaces = append(namespaces, c.namespaces()...)
	}
	slices.Sort(namespaces)
	return slices.DeleteFunc(slices.Compact(namespaces), func(namespace string) bool { return namespace == "" })
}

// pageNamed is a page that a finding is about: no link is made of what only the address says.
func pageNamed(concerns []concern, page string) Link {
	for _, c := range concerns {
		for _, link := range append([]Link{c.home}, c.also...) {
			if link.Href == page {
				return link
			}
		}
	}
	return Link{}
}

// lookedAt is how much was looked at.
func lookedAt(g *inventory.Graph) string {
	claims, addresses := 0, 0
	for _, p := range g.Pools {
		claims += len(p.Claims)
		addresses += len(p.Addresses)
	}
	all := len(g.CAPIClusters) + len(g.Clusters) + len(g.Machines) + len(g.VMs) + len(g.Workloads) + len(g.Templates) + len(g.Pools) + claims + addresses + len(g.Webhooks)
	return fmt.Sprintf("%s looked at: %s, %s, %s, %s, %s, and what belongs to them", plural(all, "object"), plural(len(g.CAPIClusters), "cluster"),
		plural(len(g.Machines), "machine"), plural(len(g.Pools), "pool"), plural(claims, "claim"), plural(addresses, "address object"))
}
