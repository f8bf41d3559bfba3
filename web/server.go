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
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/inventory"
)

//go:embed static templates
var files embed.FS

// Options say what a Server shows.
type Options struct {
	// Source reads the cluster, and Client watches it. Source.Reader is not used.
	Source inventory.Source
	Client client.WithWatch
	// Context is what the user calls the cluster.
	Context string
	// Port is that to listen on; 0 is a free one.
	Port int
	// Limits are for how long something may be as it is before it is a finding.
	Limits inventory.Limits
}

const (
	// headerTimeout is how long a client may take to say what it asks for, and idleTimeout
	// how long a connection is kept that nothing is asked on.
	headerTimeout = 5 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Server serves the pages.
type Server struct {
	options  Options
	follower *follower
	guard    *guard
	listen   net.Listener
	pages    map[string]*template.Template
	// idle is how long a connection is kept that nothing is asked on.
	idle time.Duration
}

// NewServer reads the cluster, and listens on the loopback interface.
func NewServer(ctx context.Context, o Options) (*Server, error) {
	follower, err := newFollower(ctx, o.Source, newWatcher(o.Client), o.Limits)
	if err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", o.Port))
	if err != nil {
		return nil, fmt.Errorf("listening on the loopback interface: %w", err)
	}
	s := &Server{options: o, follower: follower, listen: listener, pages: parsePages(), idle: idleTimeout}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	s.guard = newGuard(s.routes(), port)
	return s, nil
}

func parsePages() map[string]*template.Template {
	pages := map[string]*template.Template{}
	functions := template.FuncMap{"add": func(a, b int) int { return a + b }}
	for _, name := range []string{"pools", "pool", "story", "findings"} {
		pages[name] = template.Must(template.New("layout.html").Funcs(functions).
			ParseFS(files, "templates/layout.html", "templates/beside.html", "templates/"+name+".html"))
	}
	return pages
}

// URL opens the pages for one browser, once.
func (s *Server) URL() string { return "http://" + s.listen.Addr().String() + "/?key=" + s.guard.key }

// Unseen are sentences on what may not be read.
func (s *Server) Unseen() []string {
	now, _ := s.follower.now()
	return now.unseen(true)
}

// Serve serves until the context ends.
func (s *Server) Serve(ctx context.Context) error {
	go s.follower.run(ctx)
	server := &http.Server{
		Handler: s.guard, ReadHeaderTimeout: headerTimeout, IdleTimeout: s.idle,
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
	mux.Handle("GET /{$}", http.RedirectHandler("/pools", http.StatusSeeOther))
	mux.HandleFunc("GET /pools", s.pools)
	mux.HandleFunc("GET /pools/{kind}/{name}", s.pool)
	mux.HandleFunc("GET /pools/{kind}/{namespace}/{name}", s.pool)
	mux.HandleFunc("GET /addresses/{address}", s.address)
	mux.HandleFunc("GET /objects/{kind}/{namespace}/{name}", s.object)
	mux.HandleFunc("GET /findings", s.findings)
	mux.HandleFunc("GET /find", s.find)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		s.notFound(w, r, "There is no such page.")
	})
	return mux
}

func (s *Server) pools(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	s.show(w, r, now, page{name: "pools", title: "Pools", content: poolRows(now)})
}

func (s *Server) pool(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	kind, namespace, name := r.PathValue("kind"), r.PathValue("namespace"), r.PathValue("name")
	pool := poolNamed(now.graph, kind, namespace, name)
	if pool == nil {
		s.notFound(w, r, fmt.Sprintf("There is no %s %s, or it may not be seen.", kind, path(namespace, name)))
		return
	}
	var at place
	at.block, _ = netip.ParseAddr(r.URL.Query().Get("block"))
	at.from, _ = netip.ParseAddr(r.URL.Query().Get("from"))
	s.show(w, r, now, page{name: "pool", title: kind + " " + path(namespace, name), content: poolView(now, pool, at)})
}

func (s *Server) findings(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	s.show(w, r, now, page{name: "findings", title: "Findings", content: findingsView(now, queryOf(r.URL.Query()))})
}

func (s *Server) address(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	ip, err := netip.ParseAddr(r.PathValue("address"))
	if err != nil {
		s.notFound(w, r, fmt.Sprintf("%q is no address.", r.PathValue("address")))
		return
	}
	ip = ip.Unmap().WithZone("")
	story := addressStory(now.graph, ip)
	story.Beside = now.beside(addressHref(ip))
	s.tell(w, r, now, story)
}

func (s *Server) object(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	kind, key := r.PathValue("kind"), types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	story, ok := objectStory(now.graph, kind, key)
	if !ok {
		s.notFound(w, r, fmt.Sprintf("There is no %s %s, or it may not be seen.", kind, key))
		return
	}
	story.Beside = now.beside(objectHref(kind, key.Namespace, key.Name))
	s.tell(w, r, now, story)
}

func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	now, _ := s.follower.now()
	story := find(now.graph, strings.TrimSpace(r.URL.Query().Get("q")))
	if len(story.Links) == 1 {
		http.Redirect(w, r, story.Links[0].Href, http.StatusSeeOther)
		return
	}
	s.tell(w, r, now, story)
}

func (s *Server) tell(w http.ResponseWriter, r *http.Request, now state, story Story) {
	s.show(w, r, now, page{name: "story", title: story.Title, content: story})
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request, text string) {
	now, _ := s.follower.now()
	s.show(w, r, now, page{name: "story", title: "Not found", content: Story{Lines: []Line{{Text: text}}}, status: http.StatusNotFound})
}

// page is what a template is filled with.
type page struct {
	name, title string
	content     any
	// status is that of the answer; 0 is OK.
	status int
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, now state, p page) {
	where := "all namespaces"
	if s.options.Source.Namespace != "" {
		where = "namespace " + s.options.Source.Namespace
	}
	var whole bytes.Buffer
	err := s.pages[p.name].Execute(&whole, map[string]any{
		"Title": p.title, "Context": s.options.Context, "Where": where, "AsOf": now.graph.At.Format(time.TimeOnly),
		"Lost": now.disconnected(), "Refresh": r.URL.RequestURI(), "Unseen": now.unseen(p.name == "findings"), "Content": p.content,
		"Name": p.name, "Found": now.found(),
	})
	if err != nil {
		http.Error(w, "The page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if p.status != 0 {
		w.WriteHeader(p.status)
	}
	_, _ = w.Write(whole.Bytes())
}

// disconnected says since when nothing new is known, and why; empty if all is well.
func (s state) disconnected() string {
	if s.lost == nil {
		return ""
	}
	return fmt.Sprintf("disconnected since %s: %v", s.since.Format(time.TimeOnly), s.lost)
}

// unseen are sentences on what is not seen, or later: of what is read for findings alone only
// where these are shown.
func (s state) unseen(ofFindings bool) []string {
	var says []string
	for _, u := range s.graph.Unseen {
		if ofFindings || !inventory.IsForFindings(u.Kind) {
			says = append(says, u.String())
		}
	}
	for _, kind := range s.unwatched {
		if !ofFindings && inventory.IsForFindings(kind) {
			continue
		}
		says = append(says, fmt.Sprintf("%s cannot be watched: changes of them are seen within %s", kind, readEvery))
	}
	return says
}

// found says how much was found, empty while nobody can tell.
func (s state) found() string {
	count := countOf(s.concerns)
	if count == "" && s.unsure == 0 && len(s.report.LeftOut) == 0 {
		return "none"
	}
	return count
}

// events says a word each time that something new is known. The page then loads itself
// again: what it shows, and whether it may, is decided in one place.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return
	}
	control := http.NewResponseController(w)
	say := func(text string) bool {
		_, err := w.Write([]byte(text))
		return err == nil && control.Flush() == nil
	}
	_, news := s.follower.now()
	for ok := say(": connected\n\n"); ok; ok = say("data: changed\n\n") {
		select {
		case <-r.Context().Done():
			return
		case <-news:
			// Before it is said, so that no change is missed while it is.
			_, news = s.follower.now()
		}
	}
}
