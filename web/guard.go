package web

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// policy lets a page have nothing but what this server itself gives it.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; " +
	"img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// guard lets one browser in: the one that was opened with the key. Other programs and
// users of the machine reach the port, too, and so does any page that the browser shows.
type guard struct {
	next http.Handler
	// hosts are the names under which the server is asked for. A page of another
	// name that was made to point here (DNS rebinding) has another one.
	hosts []string
	// cookie is the name of the session's cookie. Browsers keep those of all ports of a
	// host together.
	cookie  string
	session string

	mu sync.Mutex
	// key opens the session once.
	key string
}

func newGuard(next http.Handler, port string) *guard {
	return &guard{
		next:    next,
		hosts:   []string{"127.0.0.1:" + port, "[::1]:" + port, "localhost:" + port},
		cookie:  "static-ip-" + port,
		session: rand.Text(),
		key:     rand.Text(),
	}
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")

	if !slices.Contains(g.hosts, r.Host) {
		http.Error(w, "This server is asked for by its loopback address only.", http.StatusMisdirectedRequest)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "Nothing can be changed here.", http.StatusMethodNotAllowed)
		return
	}
	if !g.sameSite(r) {
		http.Error(w, "Another site asks. Open the link from the terminal, or type it.", http.StatusForbidden)
		return
	}
	if key := r.URL.Query().Get("key"); key != "" {
		g.open(w, r, key)
		return
	}
	if !g.knows(r) {
		http.Error(w, "Open the link that the terminal shows. It works once: for another browser, start the command again.", http.StatusUnauthorized)
		return
	}
	g.next.ServeHTTP(w, r)
}

// sameSite tells whether the person or a page of ours asks, by what the browser says of it.
func (g *guard) sameSite(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	from, err := url.Parse(origin)
	return err == nil && from.Scheme == "http" && from.Host == r.Host
}

// open begins the session, and takes the key out of the address that the browser shows and
// remembers.
func (g *guard) open(w http.ResponseWriter, r *http.Request, key string) {
	if !g.spend(key) {
		http.Error(w, "This link was used already. Start the command again for a new one.", http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: g.cookie, Value: g.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	to := url.URL{Path: r.URL.Path}
	query := r.URL.Query()
	query.Del("key")
	to.RawQuery = query.Encode()
	http.Redirect(w, r, to.String(), http.StatusSeeOther)
}

func (g *guard) spend(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.key == "" || subtle.ConstantTimeCompare([]byte(key), []byte(g.key)) != 1 {
		return false
	}
	g.key = ""
	return true
}

func (g *guard) knows(r *http.Request) bool {
	cookie, err := r.Cookie(g.cookie)
	return err == nil && subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(g.session)) == 1
}
