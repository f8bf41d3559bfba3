package web

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

//go:embed static templates
var files embed.FS

// eventsApart is the least time between two words to a browser that something changed.
const eventsApart = 500 * time.Millisecond

// ErrNotFound says that there is no such pool or object.
var ErrNotFound = errors.New("not found")

// Source is what the pages show, as it is now.
type Source interface {
	Pools() []PoolRow
	// Pool is a pool, with the block that begins with this address where it has blocks.
	Pool(kind, namespace, name, block string) (PoolView, error)
	Address(ip netip.Addr) Story
	Object(ctx context.Context, kind, namespace, name string) (Story, error)
	Findings() []Finding
	// Find is the page that a person means by what they typed, empty if there is none.
	Find(text string) string

	// Context names the cluster.
	Context() string
	// AsOf is when the API server was last heard of.
	AsOf() time.Time
	// Unseen are sentences on what may not be read.
	Unseen() []string
	// Changed is closed when the pages show something new.
	Changed() <-chan struct{}
}

// Server serves the pages.
type Server struct {
	source Source
	guard  *guard
	listen net.Listener
	pages  map[string]*template.Template
}

// NewServer listens on the loopback interface, on a free port if it is 0.
func NewServer(ctx context.Context, source Source, port int) (*Server, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("listening on the loopback interface: %w", err)
	}
	s := &Server{source: source, listen: listener, pages: map[string]*template.Template{}}
	functions := template.FuncMap{"add": func(a, b int) int { return a + b }}
	for _, name := range []string{"layout", "pools", "pool", "story", "findings"} {
		s.pages[name] = template.Must(template.New(name+".html").Funcs(functions).ParseFS(files, "templates/"+name+".html"))
	}
	s.guard = newGuard(s.routes(), portOf(listener))
	return s, nil
}

func portOf(listener net.Listener) string {
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// URL opens the pages for one browser, once.
func (s *Server) URL() string { return "http://" + s.listen.Addr().String() + "/?key=" + s.guard.key }

// Serve serves until the context ends.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler: s.guard, ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(s.listen); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the pages: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /static/", http.FileServerFS(files))
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /find", s.find)
	mux.Handle("GET /{$}", http.RedirectHandler("/pools", http.StatusSeeOther))
	mux.HandleFunc("GET /pools", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r, "pools", "Pools", s.source.Pools())
	})
	mux.HandleFunc("GET /pools/{kind}/{name}", s.pool)
	mux.HandleFunc("GET /pools/{kind}/{namespace}/{name}", s.pool)
	mux.HandleFunc("GET /addresses/{address}", s.address)
	mux.HandleFunc("GET /objects/{kind}/{namespace}/{name}", s.object)
	mux.HandleFunc("GET /findings", func(w http.ResponseWriter, r *http.Request) {
		s.show(w, r, "findings", "Findings", s.source.Findings())
	})
	return mux
}

func (s *Server) pool(w http.ResponseWriter, r *http.Request) {
	kind, namespace, name := r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name")
	view, err := s.source.Pool(kind, namespace, name, r.URL.Query().Get("block"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.show(w, r, "pool", kind+" "+path(namespace, name), view)
}

func (s *Server) address(w http.ResponseWriter, r *http.Request) {
	ip, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil {
		s.fail(w, r, fmt.Errorf("%q is no address: %w", r.PathValue("address"), ErrNotFound))
		return
	}
	story := s.source.Address(ip)
	s.show(w, r, "story", story.Title, story)
}

func (s *Server) object(w http.ResponseWriter, r *http.Request) {
	story, err := s.source.Object(r.Context(), r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.show(w, r, "story", story.Title, story)
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	text := strings.TrimSpace(r.URL.Query().Get("q"))
	if to := s.source.Find(text); to != "" {
		http.Redirect(w, r, to, http.StatusSeeOther)
		return
	}
	s.fail(w, r, fmt.Errorf("nothing is called %q: type an address, or the name of a machine, a pool or a Cluster: %w", text, ErrNotFound))
}

// fail shows a page that says what went wrong.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, ErrNotFound) {
		status = http.StatusNotFound
	}
	s.showAs(w, r, status, "story", "Not shown", Story{Lines: []string{err.Error()}})
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, page, title string, content any) {
	s.showAs(w, r, http.StatusOK, page, title, content)
}

func (s *Server) showAs(w http.ResponseWriter, r *http.Request, status int, page, title string, content any) {
	var body, whole bytes.Buffer
	err := s.pages[page].Execute(&body, content)
	if err == nil {
		err = s.pages["layout"].Execute(&whole, map[string]any{
			"Title": title, "Context": s.source.Context(), "AsOf": s.source.AsOf().Format(time.TimeOnly),
			"Refresh": r.URL.RequestURI(), "Unseen": s.source.Unseen(),
			"Body": template.HTML(body.String()), //nolint:gosec // made by a template
		})
	}
	if err != nil {
		http.Error(w, "The page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(whole.Bytes())
}

// events says a word each time that the pages show something new. The page then loads
// itself again: what it shows, and whether it may, is decided in one place.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	say := func(text string) bool {
		_, err := w.Write([]byte(text))
		return err == nil && control.Flush() == nil
	}
	if !say(": connected\n\n") {
		return
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	changed := s.source.Changed()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-changed:
			// Before it is said, so that no change is missed while it is.
			changed = s.source.Changed()
		}
		select {
		case <-r.Context().Done():
			return
		case <-pause.C:
		}
		if !say("data: changed\n\n") {
			return
		}
		pause.Reset(eventsApart)
	}
}

// Href is the pool's page.
func (p PoolRow) Href() string {
	return "/pools/" + url.PathEscape(p.Kind) + "/" + escaped(p.Namespace, p.Name)
}

// ID is the pool's on a page.
func (p PoolRow) ID() string { return "p-" + p.Kind + "-" + p.Namespace + "-" + p.Name }

// IsFirst tells whether this cell is the first of the grid that is an address: Tab leads
// to it.
func (p PoolView) IsFirst(row, cell int) bool {
	for i := range p.Grid {
		for j := range p.Grid[i].Cells {
			if !p.Grid[i].Cells[j].IsOut() {
				return i == row && j == cell
			}
		}
	}
	return false
}

func path(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func escaped(namespace, name string) string {
	if namespace == "" {
		return url.PathEscape(name)
	}
	return url.PathEscape(namespace) + "/" + url.PathEscape(name)
}
