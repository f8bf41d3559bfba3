package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"capv-static-ip.dev/allocator/capi"
	"capv-static-ip.dev/inventory"
	"capv-static-ip.dev/tests/web/cluster"
)

// serverOf is a Server of a cluster with these objects.
func serverOf(t *testing.T, objects ...client.Object) *Server {
	t.Helper()
	c, err := cluster.New(objects...)
	if err != nil {
		t.Fatal(err)
	}
	return serverOn(t, c)
}

func serverOn(t *testing.T, c client.WithWatch) *Server {
	t.Helper()
	s, err := NewServer(t.Context(), Options{Source: cluster.Source(c), Client: c, Context: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.listen.Close() })
	return s
}

// graphOf is a Graph of a cluster with these objects.
func graphOf(t *testing.T, objects ...client.Object) *inventory.Graph {
	t.Helper()
	c, err := cluster.New(objects...)
	if err != nil {
		t.Fatal(err)
	}
	source := cluster.Source(c)
	source.Reader, source.ForFindings = c, true
	graph, err := source.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return graph
}

// visit is what a browser that was let in gets.
func (s *Server) visit(t *testing.T, target string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.routes().ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

// page is the text of a page and its elements.
func (s *Server) page(t *testing.T, target string) (text string, elements []*html.Node) {
	t.Helper()
	answer := s.visit(t, target)
	if answer.Code != http.StatusOK {
		t.Fatalf("%s is answered with %d: %s", target, answer.Code, answer.Body)
	}
	return read(t, answer.Body.String())
}

func read(t *testing.T, page string) (text string, elements []*html.Node) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for node := range root.Descendants() {
		switch node.Type {
		case html.TextNode:
			all.WriteString(node.Data + " ")
		case html.ElementNode:
			elements = append(elements, node)
		default:
		}
	}
	return strings.Join(strings.Fields(all.String()), " "), elements
}

func attribute(node *html.Node, name string) string {
	for _, a := range node.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// of are the elements of a page with this tag.
func of(elements []*html.Node, tag string) []*html.Node {
	var found []*html.Node
	for _, node := range elements {
		if node.Data == tag {
			found = append(found, node)
		}
	}
	return found
}

// rows are the rows of the tables of a page, in words.
func rows(elements []*html.Node) []string {
	var all []string
	for _, row := range of(elements, "tr") {
		var text strings.Builder
		for node := range row.Descendants() {
			if node.Type == html.TextNode {
				text.WriteString(node.Data + " ")
			}
		}
		all = append(all, strings.Join(strings.Fields(text.String()), " "))
	}
	return all
}

func TestPoolsThatNeedAttentionComeFirst(t *testing.T) {
	_, elements := lookAgain(t, serverOf(t, cluster.Full()...)).page(t, "/pools")
	want := []string{
		"Pool Status Namespace Use Total Used Cooling Free Surge Family",
		"InClusterIPPool/ workers 2 problems default 192 100 3 88 2 IPv4",
		"IPPool/ dkp-cluster Exhausted: 1 owner waits; 1 problem default 6 6 0 0 1 IPv4",
		"InClusterIPPool/ edge-7 Low: a roll-out needs 3 edge 16 13 2 1 3 IPv4",
		"GlobalInClusterIPPool/ shared OK all 65536 1028 0 64505 0 IPv4",
		"InClusterIPPool/ v6 OK lab 2^64 3 0 2^64 0 IPv6",
	}
	if got := rows(elements); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestClusterWithoutPoolsSaysSo(t *testing.T) {
	text, _ := serverOf(t).page(t, "/pools")
	if !strings.Contains(text, "There are no pools here.") {
		t.Errorf("got %q", text)
	}
}

// cells are the cells of a grid, each with its state, its text, and what it is in words.
func cells(elements []*html.Node) map[string][3]string {
	all := map[string][3]string{}
	for _, a := range of(elements, "a") {
		if ip, is := strings.CutPrefix(attribute(a, "id"), "a-"); is {
			all[ip] = [3]string{attribute(a.Parent, "class"), a.FirstChild.Data, attribute(a, "aria-label")}
		}
	}
	return all
}

func TestCellsTellTheirStateInColourSignAndWords(t *testing.T) {
	_, elements := lookAgain(t, serverOf(t, cluster.Full()...)).page(t, "/pools/InClusterIPPool/default/workers")
	got := cells(elements)
	for ip, want := range map[string][3]string{
		"10.16.57.32":  {"used", "32", "10.16.57.32 used by VSphereMachine md-0-45381"},
		"10.16.57.40":  {"reserved", "✕", "10.16.57.40 reserved"},
		"10.16.57.43":  {"free", "43", "10.16.57.43 free"},
		"10.16.57.77":  {"problem", "!", "10.16.57.77 problem: SIP-001: also on VSphereMachine/lb-old (static)"},
		"10.16.57.151": {"cooling", "151", "10.16.57.151 cooling"},
		"10.16.57.200": {"problem", "!", "10.16.57.200 problem: SIP-017: VSphereMachine default/jump-host has 10.16.57.200, written by hand, which default/InClusterIPPool/workers may hand out"},
	} {
		if got[ip] != want {
			t.Errorf("%s is drawn as %q, want %q", ip, got[ip], want)
		}
	}
	if len(got) != 192 {
		t.Errorf("%d cells are drawn, want 192", len(got))
	}
}

func TestTabLeadsToOneCellOfTheGrid(t *testing.T) {
	_, elements := serverOf(t, cluster.Full()...).page(t, "/pools/InClusterIPPool/default/workers")
	var stops []string
	for _, a := range of(elements, "a") {
		if attribute(a, "tabindex") == "0" {
			stops = append(stops, attribute(a, "id"))
		}
	}
	if !slices.Equal(stops, []string{"a-10.16.57.32"}) {
		t.Errorf("Tab stops at %v, want the first cell alone", stops)
	}
}

func TestAddressesThatNobodyHasAreFolded(t *testing.T) {
	_, elements := lookAgain(t, serverOf(t, cluster.Full()...)).page(t, "/pools/InClusterIPPool/default/workers")
	got := rows(elements)
	for _, want := range []string{
		"10.16.57.161 – 10.16.57.199 39 free",
		"10.16.57.200 free ! SIP-017: VSphereMachine default/jump-host has 10.16.57.200, written by hand, which default/InClusterIPPool/workers may hand out",
		"10.16.57.201 – 10.16.57.223 23 free",
		"10.16.57.32 used VSphereMachine/md-0-45381 0 VM Network dkp Running 3d2h",
		"MachineDeployment/md-0 100 – +2 – enough",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no row says %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
}

func TestPoolTellsWhoWaitsAndWhatIsShort(t *testing.T) {
	text, elements := serverOf(t, cluster.Full()...).page(t, "/pools/IPPool/default/dkp-cluster")
	for _, want := range []string{"KubeadmControlPlane default/dkp-cp waits for it.", "Hands out 10.16.56.88-10.16.56.93/24.", "Exhausted: 1 owner waits"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q: %s", want, text)
		}
	}
	if want := "KubeadmControlPlane/dkp-cp 3 – +1 – 1 short"; !slices.Contains(rows(elements), want) {
		t.Errorf("no row says %q: %q", want, rows(elements))
	}
}

func TestLargePoolIsShownByBlocks(t *testing.T) {
	objects := []client.Object{cluster.InClusterPool("", "shared", "10.20.0.1", "10.20.0.0/16", 16)}
	// The worst page: a block with nothing to fold.
	for i := range 256 {
		objects = append(objects, cluster.Address("lab", cluster.Global("shared"), cluster.Number("10.20.7.0", i), fmt.Sprintf("claim-%d", i)))
	}
	_, elements := serverOf(t, objects...).page(t, "/pools/GlobalInClusterIPPool/shared?block=10.20.7.0")
	blocks := 0
	for _, a := range of(elements, "a") {
		if strings.HasPrefix(attribute(a, "id"), "b-") {
			blocks++
		}
		if attribute(a, "id") == "b-10.20.7.0" && (attribute(a, "aria-label") != ".7 256 of 256 taken" || attribute(a, "aria-current") != "true" || attribute(a, "class") != "l16") {
			t.Errorf("the block is %v", a.Attr)
		}
	}
	if got := cells(elements); blocks != 256 || len(got) != 256 || got["10.20.7.255"][0] != "used" {
		t.Errorf("%d blocks and %d cells are shown, want 256 of each, of block 10.20.7.0", blocks, len(got))
	}
	if len(elements) >= 2000 {
		t.Errorf("the page has %d elements, want fewer than 2000", len(elements))
	}
}

func TestListOfALargePoolGoesOn(t *testing.T) {
	var objects []client.Object
	for i := range 600 {
		objects = append(objects, cluster.Address("lab", cluster.InCluster("v6"), cluster.Number("2001:db8::10", 2*i), fmt.Sprintf("claim-%d", i)))
	}
	s := serverOf(t, append(objects, cluster.InClusterPool("lab", "v6", "2001:db8::1", "2001:db8::/64", 64))...)
	seen := map[string]bool{}
	pages := 0
	for next := "/pools/InClusterIPPool/lab/v6"; next != "" && pages < 10; pages++ {
		_, elements := s.page(t, next)
		next = ""
		for _, node := range elements {
			if node.Data == "tr" && strings.HasPrefix(attribute(node, "id"), "r-") {
				seen[attribute(node, "id")] = true
			}
			if node.Data == "a" && strings.Contains(attribute(node, "href"), "from=") {
				next = attribute(node, "href")
			}
		}
		if len(of(elements, "tr")) > 260 {
			t.Errorf("a page has %d rows", len(of(elements, "tr")))
		}
	}
	// 600 that are used, 599 between them, 1 after them; what is free and what is reserved before them.
	if want := 1202; len(seen) != want {
		t.Errorf("%d rows were seen on %d pages, want %d", len(seen), pages, want)
	}
}

func TestStoriesLeadOn(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	for target, want := range map[string]struct{ text, href string }{
		"/addresses/10.16.57.77":                      {"! 2 objects have it", "/pools/InClusterIPPool/default/workers?block=10.16.57.0"},
		"/addresses/2001:db8:7::10":                   {"used by VSphereMachine lab/six-45381", "/objects/VSphereMachine/lab/six-45381"},
		"/objects/VSphereMachine/default/md-0-45381":  {"As it should be.", "/addresses/10.16.57.32"},
		"/objects/VSphereMachine/default/md-1-silent": {"it has no source of addresses", "/pools"},
		"/objects/MachineDeployment/edge/edge-7-md":   {"2 short", "/pools/InClusterIPPool/edge/edge-7"},
		"/objects/KubeadmControlPlane/default/dkp-cp": {"machines of it were refused", "/pools/IPPool/default/dkp-cluster"},
		"/find?q=DKP-c":                               {"Found for", "/objects/KubeadmControlPlane/default/dkp-cp"},
		"/find?q=edge-7":                              {"Found for", "/objects/VSphereMachine/edge/edge-7-md-45381"},
		"/find?q=nothing-of-the-kind":                 {"Nothing here is called so.", "/pools"},
	} {
		text, elements := s.page(t, target)
		if !strings.Contains(text, want.text) {
			t.Errorf("%s does not say %q: %s", target, want.text, text)
		}
		if !slices.ContainsFunc(elements, func(n *html.Node) bool { return attribute(n, "href") == want.href }) {
			t.Errorf("%s does not lead to %s", target, want.href)
		}
	}
}

func TestSearchForOneThingLeadsThere(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	for text, want := range map[string]string{
		"10.16.57.77": "/addresses/10.16.57.77", "::ffff:10.16.57.77": "/addresses/10.16.57.77", "lb-old": "/objects/VSphereMachine/default/lb-old",
		"workers\n": "/pools/InClusterIPPool/default/workers",
	} {
		answer := s.visit(t, "/find?q="+url.QueryEscape(text))
		if got := answer.Header().Get("Location"); answer.Code != http.StatusSeeOther || got != want {
			t.Errorf("%q leads to %q (%d), want %q", text, got, answer.Code, want)
		}
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	for _, target := range []string{
		"/pools/IPPool/default/none", "/pools/IPPool/edge/dkp-cluster", "/addresses/10.16.57", "/objects/VSphereMachine/default/none",
		"/objects/Secret/default/none", "/nowhere", "/templates/pool.html", "/static/../server.go",
	} {
		if answer := s.visit(t, target); answer.Code != http.StatusNotFound && answer.Code != http.StatusTemporaryRedirect {
			t.Errorf("%s is answered with %d, want %d", target, answer.Code, http.StatusNotFound)
		}
	}
}

func TestLinksOfAllPagesLeadSomewhere(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	asked := map[string]bool{}
	left := []string{"/pools"}
	for len(left) > 0 {
		target := left[0]
		left = left[1:]
		if asked[target] || len(asked) > 400 {
			continue
		}
		asked[target] = true
		answer := s.visit(t, target)
		if answer.Code != http.StatusOK {
			t.Errorf("%s is answered with %d", target, answer.Code)
		}
		_, elements := read(t, answer.Body.String())
		for _, node := range elements {
			for _, name := range []string{"href", "src"} {
				if link := attribute(node, name); strings.HasPrefix(link, "/") {
					left = append(left, link)
				}
			}
		}
	}
	if !asked["/findings"] || len(asked) < 300 {
		t.Errorf("only %d pages were found", len(asked))
	}
}

func TestForbiddenKindsAreNamed(t *testing.T) {
	c, err := cluster.New(cluster.Full()...)
	if err != nil {
		t.Fatal(err)
	}
	forbidden := func(list client.ObjectList) error {
		if _, ok := list.(*capi.VSphereVMList); ok {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "vspherevms"}, "", nil)
		}
		return nil
	}
	c = interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			return errors.Join(forbidden(list), c.List(ctx, list, options...))
		},
		Watch: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) (watch.Interface, error) {
			if _, ok := list.(*capi.VSphereMachineList); ok {
				return nil, apierrors.NewForbidden(schema.GroupResource{Resource: "vspheremachines"}, "", nil)
			}
			return c.Watch(ctx, list, options...)
		},
	})
	text, _ := serverOn(t, c).page(t, "/pools/InClusterIPPool/default/workers")
	for _, want := range []string{
		"VSphereVMs cannot be listed: forbidden", "VSphereMachines cannot be watched: changes of them are seen within 15s",
		"10.16.57.32 used VSphereMachine/md-0-45381",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q: %s", want, text)
		}
	}
}

func TestStateOfAPageIsInItsAddress(t *testing.T) {
	s := serverOf(t, cluster.Full()...)
	_, elements := s.page(t, "/pools/GlobalInClusterIPPool/shared?block=10.20.2.0")
	if !slices.ContainsFunc(of(elements, "a"), func(a *html.Node) bool {
		return attribute(a, "href") == "/pools/GlobalInClusterIPPool/shared?block=10.20.2.0" && a.FirstChild.Data == "load again"
	}) {
		t.Error("loading again leads to another page")
	}
}
