package web

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/tests/web/cluster"
)

// lookAgain has a Server read a second time, so that what it found is sure.
func lookAgain(t *testing.T, s *Server) *Server {
	t.Helper()
	s.follower.lookout.Pause = 0
	if err := s.follower.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// fine is a cluster of which nothing is wrong.
func fine() []client.Object {
	objects := append(cluster.Webhook(), cluster.InClusterPool("default", "workers", "10.0.0.1", "10.0.0.2-10.0.0.9", 24))
	return append(objects, cluster.Held("default", "md-0", "dkp", cluster.InCluster("workers"), "10.0.0.2")...)
}

// byHand are machines with addresses that people wrote on them, of a pool that may hand them
// out.
func byHand(n int) []client.Object {
	objects := append(cluster.Webhook(), cluster.InClusterPool("default", "workers", "10.0.0.1", "10.0.0.0/16", 16))
	for i := range n {
		m := cluster.Machine("default", fmt.Sprintf("by-hand-%03d", i), "dkp")
		m.Spec.Network.Devices[0].IPAddrs = []string{cluster.Number("10.0.1.0", i) + "/16"}
		objects = append(objects, m)
	}
	return objects
}

// with are the elements of a class.
func with(elements []*html.Node, class string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(elements), func(n *html.Node) bool {
		return !slices.Contains(strings.Fields(attribute(n, "class")), class)
	})
}

// hrefs are where the links of an element lead.
func hrefs(node *html.Node) []string {
	var all []string
	for child := range node.Descendants() {
		if child.Type == html.ElementNode && child.Data == "a" {
			all = append(all, attribute(child, "href"))
		}
	}
	return all
}

// found are the rows of the findings of a page, without their head.
func found(elements []*html.Node) []*html.Node {
	var all []*html.Node
	for _, row := range of(elements, "tr") {
		if strings.HasPrefix(attribute(row, "id"), "f-SIP-") {
			all = append(all, row)
		}
	}
	return all
}

func TestFindingsAreThoseOfAnAudit(t *testing.T) {
	c, err := cluster.New(cluster.Full()...)
	if err != nil {
		t.Fatal(err)
	}
	source := cluster.Source(c)
	source.Reader = c
	report, err := source.Audit(t.Context(), inventory.Limits{}, 0)
	if err != nil || len(report.Findings) == 0 {
		t.Fatalf("the audit finds %v (%v)", report, err)
	}
	_, elements := lookAgain(t, serverOn(t, c)).page(t, "/findings")

	shown := found(elements)
	if len(shown) != len(report.Findings) {
		t.Fatalf("%d findings are shown, the audit has %d", len(shown), len(report.Findings))
	}
	for i, f := range report.Findings {
		text := rows(shown[i : i+1])[0]
		for _, want := range []string{string(f.Severity), string(f.Check), f.Check.Means(), f.Object, f.Text, f.Remedy} {
			if !strings.Contains(text, want) {
				t.Errorf("the row %q does not say %q", text, want)
			}
		}
	}
}

func TestWhatLooksWrongOnceIsNoFindingYet(t *testing.T) {
	s := serverOf(t, byHand(1)...)
	text, elements := s.page(t, "/findings")
	if len(found(elements)) > 0 || !strings.Contains(text, "Nothing found up to now.") || !strings.Contains(text, "1 more looks wrong since a moment ago.") {
		t.Errorf("the first look is told as %q", text)
	}
	if !strings.Contains(text, "Pools Findings ") || strings.Contains(text, "(none)") {
		t.Errorf("the first look counts as %q", text)
	}
	text, elements = lookAgain(t, s).page(t, "/findings")
	if len(found(elements)) != 1 || strings.Contains(text, "a moment ago") || !strings.Contains(text, "Findings (1 warning)") {
		t.Errorf("the second look is told as %q", text)
	}
}

func TestSecondLookComesByItself(t *testing.T) {
	s := serverOf(t, byHand(1)...)
	s.follower.every = 24 * time.Hour
	go s.follower.run(t.Context())
	s.until(t, "/findings", "SIP-017")
}

func TestOnlyWhatIsNotSureIsReadMoreOften(t *testing.T) {
	s := serverOf(t, byHand(1)...)
	if s.follower.again != inventory.SecondLook {
		t.Fatalf("the second look comes after %s", s.follower.again)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.follower.source.Client = interceptor.NewClient(s.follower.client, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			return errors.Join(ctx.Err(), c.List(ctx, list, options...))
		},
	})
	s.follower.client = s.follower.source.Client.(client.WithWatch)
	if err := s.follower.read(gone); err == nil || s.follower.again != 0 {
		t.Errorf("a cluster that does not answer (%v) is read again after %s", err, s.follower.again)
	}
	if lookAgain(t, s).follower.again != 0 {
		t.Errorf("when all is sure, it is read again after %s", s.follower.again)
	}
}

func TestNothingFoundIsSaid(t *testing.T) {
	text, elements := serverOf(t, fine()...).page(t, "/findings")
	for _, want := range []string{"Nothing found.", "6 objects looked at: 0 clusters, 1 machine, 1 pool, 1 claim, 1 address object", "Findings (none)"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q: %s", want, text)
		}
	}
	if len(of(elements, "table")) > 0 || len(of(elements, "select")) > 0 {
		t.Error("there is a table, or a filter, of nothing")
	}
}

func TestFindingsAreNarrowed(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	all := []string{
		"SIP-001 10.16.57.77", "SIP-007 VSphereMachine default/md-1-silent", "SIP-010 IPPool default/dkp-cluster",
		"SIP-010 InClusterIPPool edge/edge-7", "SIP-015 IPPool default/dkp-cluster", "SIP-017 VSphereMachine default/jump-host",
	}
	for target, want := range map[string][]string{
		"/findings":                                              all,
		"/findings?severity=error":                               all[:1],
		"/findings?severity=warning":                             all[1:],
		"/findings?severity=none-such":                           all,
		"/findings?q=JUMP-":                                      all[5:],
		"/findings?q=+sip-010+":                                  all[2:4],
		"/findings?q=lb-old":                                     all[:1],
		"/findings?q=without+a+source":                           all[1:2],
		"/findings?namespace=edge":                               all[3:4],
		"/findings?namespace=edge&severity=error":                nil,
		"/findings?namespace=edg":                                nil,
		"/findings?about=/addresses/10.16.57.200":                all[5:],
		"/findings?about=/pools/IPPool/default/dkp-cluster":      {all[2], all[4]},
		"/findings?about=/pools/InClusterIPPool/default/workers": {all[0], all[5]},
		"/findings?about=/objects/VSphereMachine/default/lb-old&severity=error": all[:1],
		"/findings?about=/objects/VSphereMachine/default/lb-old&q=md-1-silent":  nil,
		"/findings?about=" + url.QueryEscape("https://example.com/"):            nil,
		"/findings?from=4":   all[4:],
		"/findings?from=400": nil,
		"/findings?from=-4":  all,
	} {
		text, elements := s.page(t, target)
		var got []string
		for _, row := range found(elements) {
			link := of(slices.Collect(row.Descendants()), "a")[0]
			got = append(got, with(slices.Collect(row.Descendants()), "check")[0].FirstChild.Data+" "+link.FirstChild.Data)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s shows %q, want %q", target, got, want)
		}
		if len(want) == 0 && !strings.Contains(text, "No finding is like that, of 6 in all.") {
			t.Errorf("%s shows nothing, and says %s", target, text)
		}
	}
}

func TestSeveritiesAreCountedOfWhatElseIsAskedFor(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	_, elements := s.page(t, "/findings?namespace=default&severity=error&q=default")
	var got []string
	for _, a := range of(elements, "a") {
		if attribute(a.Parent.Parent, "class") == "choices" {
			got = append(got, a.FirstChild.Data+" "+attribute(a, "href")+" "+attribute(a, "aria-current"))
		}
	}
	want := []string{
		"all 5 /findings?namespace=default&q=default ", "1 error /findings?namespace=default&q=default&severity=error true",
		"4 warnings /findings?namespace=default&q=default&severity=warning ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFilterKeepsWhatIsAskedFor(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	_, elements := s.page(t, "/findings?namespace=edge&severity=warning&q=free&about=/pools/InClusterIPPool/edge/edge-7")
	got := map[string]string{}
	for _, node := range elements {
		switch {
		case node.Data == "input":
			got[attribute(node, "name")] += attribute(node, "value")
		case node.Data == "option" && slices.ContainsFunc(node.Attr, func(a html.Attribute) bool { return a.Key == "selected" }):
			got["namespace"] += attribute(node, "value")
		}
	}
	want := map[string]string{"namespace": "edge", "severity": "warning", "q": "free", "about": "/pools/InClusterIPPool/edge/edge-7"}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is kept as %q, want %q", name, got[name], value)
		}
	}
}

func TestFindingLeadsToThePagesItIsAbout(t *testing.T) {
	_, elements := lookAgain(t, serverOf(t, cluster.Full()...)).page(t, "/findings")
	got := map[string][]string{}
	for _, row := range found(elements) {
		links := hrefs(row)
		got[links[0]] = links[1:]
	}
	for home, also := range map[string][]string{
		"/addresses/10.16.57.77": {
			"/objects/VSphereMachine/default/lb-old", "/objects/VSphereMachine/default/md-0-e4888", "/pools/InClusterIPPool/default/workers",
		},
		"/objects/VSphereMachine/default/jump-host": {"/addresses/10.16.57.200", "/pools/InClusterIPPool/default/workers"},
		"/pools/InClusterIPPool/edge/edge-7":        nil,
	} {
		links, ok := got[home]
		slices.Sort(links)
		if !ok || !slices.Equal(links, also) {
			t.Errorf("of %s the links lead to %q (%t), want %q", home, links, ok, also)
		}
	}
}

func TestPagesLeadToTheirFindings(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	workers := "/findings?about=" + url.QueryEscape("/pools/InClusterIPPool/default/workers")
	_, elements := s.page(t, "/pools")
	for _, row := range of(elements, "tr") {
		id := attribute(row, "id")
		if leads := slices.Contains(hrefs(row), workers); leads != (id == "p-default/InClusterIPPool/workers") {
			t.Errorf("%q leads to the findings of the workers' pool: %t", id, leads)
		}
	}
	for target, checks := range map[string][]string{
		"/pools/InClusterIPPool/default/workers":      {"SIP-001", "SIP-017"},
		"/pools/IPPool/default/dkp-cluster":           {"SIP-010", "SIP-015"},
		"/addresses/10.16.57.77":                      {"SIP-001"},
		"/addresses/10.16.57.78":                      nil,
		"/objects/VSphereMachine/default/lb-old":      {"SIP-001"},
		"/objects/VSphereMachine/default/md-1-silent": {"SIP-007"},
		"/objects/VSphereMachine/default/md-0-45381":  nil,
	} {
		_, elements := s.page(t, target)
		var got []string
		for _, section := range with(elements, "beside") {
			for _, href := range hrefs(section) {
				page, id, _ := strings.Cut(href, "#")
				got = append(got, id[len("f-"):len("f-SIP-001")])
				if _, elements := s.page(t, page); !slices.ContainsFunc(found(elements), func(n *html.Node) bool { return attribute(n, "id") == id }) {
					t.Errorf("%s leads to %s, where there is no such finding", target, href)
				}
			}
		}
		if !slices.Equal(got, checks) {
			t.Errorf("%s leads to %q, want %q", target, got, checks)
		}
	}
}

func TestNoteOfAnAddressLeadsToItsFinding(t *testing.T) {
	_, elements := lookAgain(t, serverOf(t, cluster.Full()...)).page(t, "/pools/InClusterIPPool/default/workers")
	want := "/findings?about=" + url.QueryEscape("/addresses/10.16.57.200")
	if !slices.ContainsFunc(of(elements, "tr"), func(row *html.Node) bool {
		return attribute(row, "id") == "r-10.16.57.200" && slices.Contains(hrefs(row), want)
	}) {
		t.Errorf("nothing of 10.16.57.200 leads to %s", want)
	}
}

func TestManyFindingsAreShownInParts(t *testing.T) {
	s := lookAgain(t, serverOf(t, byHand(450)...))
	seen := map[string]bool{}
	pages := 0
	for next := "/findings?q=by-hand"; next != ""; pages++ {
		_, elements := s.page(t, next)
		next = ""
		for _, row := range found(elements) {
			seen[attribute(row, "id")] = true
		}
		for _, a := range of(elements, "a") {
			if a.FirstChild.Data == "The findings after these" {
				next = attribute(a, "href")
			}
		}
	}
	if len(seen) != 450 || pages != 3 {
		t.Errorf("%d findings are shown on %d pages, want 450 on 3", len(seen), pages)
	}
	text, elements := s.page(t, "/pools/InClusterIPPool/default/workers")
	if !strings.Contains(text, "Findings: 450 warnings") || !strings.Contains(text, "All 450 findings") {
		t.Errorf("the pool does not say how many there are: %s", text)
	}
	if links := hrefs(with(elements, "beside")[0]); len(links) != 6 {
		t.Errorf("the pool has %d of them beside it", len(links))
	}
}

func TestRowsOfFindingsHaveIDsOfTheirOwn(t *testing.T) {
	objects := byHand(1)
	objects[0].(*admissionv1.MutatingWebhookConfiguration).Webhooks[0].Rules = nil
	objects[0].(*admissionv1.MutatingWebhookConfiguration).Webhooks[0].MatchConditions = nil
	s := lookAgain(t, serverOf(t, objects...))
	ids := map[string]bool{}
	_, elements := s.page(t, "/findings")
	for _, row := range found(elements) {
		ids[attribute(row, "id")] = true
	}
	if len(ids) != 3 {
		t.Errorf("got the IDs %v, want 3", ids)
	}
}

func TestPageThatFindingsAreAboutIsNamed(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	for page, want := range map[string]string{
		"/pools/IPPool/default/dkp-cluster":         "Only those about default/IPPool/dkp-cluster .",
		"/addresses/10.16.57.200":                   "Only those about 10.16.57.200 .",
		"/objects/VSphereMachine/default/jump-host": "Only those about VSphereMachine default/jump-host .",
	} {
		if text, _ := s.page(t, "/findings?about="+url.QueryEscape(page)); !strings.Contains(text, want) {
			t.Errorf("of %s it does not say %q: %s", page, want, text)
		}
	}
}

// A link of a page that nobody knows would lead wherever the address says.
func TestOnlyKnownPagesAreLinked(t *testing.T) {
	s := lookAgain(t, serverOf(t, cluster.Full()...))
	for _, page := range []string{"//example.com/", "https://example.com/", "javascript:alert(1)", "/nowhere"} {
		_, elements := s.page(t, "/findings?about="+url.QueryEscape(page))
		for _, a := range of(elements, "a") {
			if href := attribute(a, "href"); href == page {
				t.Errorf("%q is a link", page)
			}
		}
	}
}
