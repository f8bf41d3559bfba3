package web

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
)

// guarded is a guard before a page that says "inside", with its session open.
func guarded(t *testing.T) (*guard, *http.Cookie) {
	t.Helper()
	inside := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("inside")) })
	g := newGuard(inside, "8080")
	answer := ask(g, func(r *http.Request) { r.URL.RawQuery = "key=" + g.key })
	cookies := answer.Result().Cookies()
	if answer.Code != http.StatusSeeOther || len(cookies) != 1 {
		t.Fatalf("the key got %d and %d cookies, want a redirect with one", answer.Code, len(cookies))
	}
	return g, cookies[0]
}

// ask asks for the first page, as a browser does when a person types its address.
func ask(g *guard, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/pools", nil)
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func TestSessionIsLetIn(t *testing.T) {
	g, cookie := guarded(t)
	answer := ask(g, func(r *http.Request) { r.AddCookie(cookie) })
	if answer.Code != http.StatusOK || answer.Body.String() != "inside" {
		t.Errorf("got %d %q, want the page", answer.Code, answer.Body)
	}
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff",
		"Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	} {
		if got := answer.Header().Get(name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %q in it", name, got, want)
		}
	}
}

func TestCookieIsForThisServerAndNoScript(t *testing.T) {
	_, cookie := guarded(t)
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Domain != "" || cookie.Path != "/" {
		t.Errorf("the cookie is %+v", cookie)
	}
}

// Browsers keep the cookies of all ports of a host together.
func TestTwoServersOfOneHostHaveSessionsOfTheirOwn(t *testing.T) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	inside := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	guards := map[string]*guard{"8080": newGuard(inside, "8080"), "8081": newGuard(inside, "8081")}
	visit := func(port, query string) int {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:"+port+"/pools"+query, nil)
		for _, cookie := range jar.Cookies(r.URL) {
			r.AddCookie(cookie)
		}
		w := httptest.NewRecorder()
		guards[port].ServeHTTP(w, r)
		jar.SetCookies(r.URL, w.Result().Cookies())
		return w.Code
	}
	for port, g := range guards {
		if code := visit(port, "?key="+g.key); code != http.StatusSeeOther {
			t.Fatalf("the key for port %s gets %d", port, code)
		}
	}
	for port := range guards {
		if code := visit(port, ""); code != http.StatusOK {
			t.Errorf("with two servers open, that on port %s answers %d", port, code)
		}
	}
}

func TestKeyLeavesTheAddress(t *testing.T) {
	g := newGuard(http.NotFoundHandler(), "8080")
	answer := ask(g, func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "/pool", "block=10.0.0.0&key="+g.key })
	if got := answer.Header().Get("Location"); got != "/pool?block=10.0.0.0" {
		t.Errorf("it leads to %q, want the same page without the key", got)
	}
}

func TestOthersAreKeptOut(t *testing.T) {
	g, cookie := guarded(t)
	with := func(change func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			r.AddCookie(cookie)
			change(r)
		}
	}
	header := func(name, value string) func(*http.Request) {
		return with(func(r *http.Request) { r.Header.Set(name, value) })
	}
	for name, test := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"without a cookie":    {func(*http.Request) {}, http.StatusUnauthorized},
		"with another cookie": {func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookie.Name, Value: "x"}) }, http.StatusUnauthorized},
		"with a wrong key":    {with(func(r *http.Request) { r.URL.RawQuery = "key=" + g.session }), http.StatusForbidden},
		"by another name":     {with(func(r *http.Request) { r.Host = "rebound.example.com:8080" }), http.StatusMisdirectedRequest},
		"by another port":     {with(func(r *http.Request) { r.Host = "127.0.0.1:8081" }), http.StatusMisdirectedRequest},
		"from another site":   {header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		"from another port":   {header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		"from another origin": {header("Origin", "http://127.0.0.1:9090"), http.StatusForbidden},
		"from a file":         {header("Origin", "null"), http.StatusForbidden},
		"with POST":           {with(func(r *http.Request) { r.Method = http.MethodPost }), http.StatusMethodNotAllowed},
		"with DELETE":         {with(func(r *http.Request) { r.Method = http.MethodDelete }), http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			if answer := ask(g, test.change); answer.Code != test.want || strings.Contains(answer.Body.String(), "inside") {
				t.Errorf("got %d %q, want %d", answer.Code, answer.Body, test.want)
			}
		})
	}
}

func TestKeyWorksOnce(t *testing.T) {
	g := newGuard(http.NotFoundHandler(), "8080")
	open := func(r *http.Request) { r.URL.RawQuery = "key=" + g.key }
	key := g.key
	ask(g, open)
	if answer := ask(g, func(r *http.Request) { r.URL.RawQuery = "key=" + key }); answer.Code != http.StatusForbidden {
		t.Errorf("the second time got %d, want %d", answer.Code, http.StatusForbidden)
	}
}
