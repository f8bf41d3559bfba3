package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"capv-static-ip.dev/allocator/ipam"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/tests/web/cluster"
)

// hostile are texts that are harmless only where they are escaped.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`, `</title><svg/onload=alert(1)>`,
	`{{.}}`, `--><b>`, "\u202e\u0000\xff", strings.Repeat("long", 80),
}

func TestTextsOfUsersAreOnlyText(t *testing.T) {
	for _, text := range hostile {
		checkEscaped(t, text)
	}
}

func FuzzTextsOfUsersAreOnlyText(f *testing.F) {
	for _, text := range hostile {
		f.Add(text)
	}
	f.Fuzz(checkEscaped)
}

// checkEscaped has a text wherever somebody may write one, and looks for elements and
// attributes that are not of the templates.
func checkEscaped(t *testing.T, text string) {
	t.Helper()
	m := cluster.Machine("ns", text, text)
	m.Spec.Network.Devices[0].NetworkName, m.Spec.Network.Devices[0].IPAddrs = text, []string{"10.0.0.2/24", text}
	m.Annotations = map[string]string{ipam.BindingsAnnotation: text, ipam.PoolsAnnotationPrefix + text: text}
	pool := ipam.PoolReference{APIGroup: text, Kind: text, Name: text}
	graph := graphOf(t, m, cluster.InClusterPool("ns", "p", text, "10.0.0.0/28", 24),
		cluster.Address("ns", pool, "10.0.0.3", text), cluster.Address("ns", cluster.InCluster("p"), "10.0.0.4", text))
	// Twice, so that it is sure.
	var lookout inventory.Lookout
	lookout.Look(graph, time.Time{}, time.Time{})
	report, _ := lookout.Look(graph, time.Time{}, time.Time{})
	if len(report.Findings) == 0 {
		t.Fatal("nothing is found of which the text could be hostile")
	}
	now := newState(graph, report)
	now.lost = errors.New(text)
	s := &Server{follower: &follower{state: now}, options: Options{Context: text}, pages: parsePages()}
	for _, target := range []string{
		"/pools", hrefOf(graph.Pools[0].PoolKey), hrefOf(graph.Pools[1].PoolKey), "/addresses/10.0.0.2", "/addresses/10.0.0.3", "/find?q=" + url.QueryEscape(text),
		objectHref("VSphereMachine", "ns", text), "/nowhere?" + url.QueryEscape(text),
		"/findings", "/findings?q=" + url.QueryEscape(text) + "&namespace=" + url.QueryEscape(text) + "&about=" + url.QueryEscape(text),
		"/findings?about=" + url.QueryEscape(objectHref("VSphereMachine", "ns", text)),
	} {
		answer := s.visit(t, target)
		if answer.Code == http.StatusInternalServerError {
			t.Errorf("%s is answered with %q", target, answer.Body)
		}
		_, elements := read(t, answer.Body.String())
		for _, node := range elements {
			if foreign := foreignIn(node); foreign != "" {
				t.Errorf("%s has %s", target, foreign)
			}
		}
	}
}

// foreignIn is what no template has, of an element.
func foreignIn(node *html.Node) string {
	known := strings.Fields("html head meta title link script body nav a form label input button wbr header h1 h2 p span main dialog kbd b i div section code select option table caption thead tbody tr th td svg rect ol ul li")
	if !slices.Contains(known, node.Data) || node.Data == "script" && attribute(node, "src") != "/static/page.js" {
		return "an element " + node.Data
	}
	for _, a := range node.Attr {
		isLink := a.Key == "href" || a.Key == "src" || a.Key == "action"
		if strings.HasPrefix(a.Key, "on") || a.Key == "style" || isLink && (!strings.HasPrefix(a.Val, "/") || strings.HasPrefix(a.Val, "//")) && a.Val != "data:," {
			return fmt.Sprintf("an attribute %s=%q", a.Key, a.Val)
		}
	}
	return ""
}
