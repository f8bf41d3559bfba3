package web

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"capv-static-ip.dev/tests/web/cluster"
	"capv-static-ip.dev/web"
)

// patience is far more than any of it takes.
const patience = 5 * time.Minute

// The pages that are looked at.
var pages = map[string]string{
	"pools":   "/pools",
	"pool":    "/pools/InClusterIPPool/default/workers",
	"waiting": "/pools/IPPool/default/dkp-cluster",
	"blocks":  "/pools/GlobalInClusterIPPool/shared?block=10.20.2.0",
	"v6":      "/pools/InClusterIPPool/lab/v6",
	"address": "/addresses/10.16.57.77",
	"explain": "/objects/VSphereMachine/default/md-0-45381",
	"silent":  "/objects/VSphereMachine/default/md-1-silent",
	"owner":   "/objects/KubeadmControlPlane/default/dkp-cp",
	"found":   "/find?q=dkp",
	"long":    "/find?q=as-long-as-names-may-be",
	"none":    "/nowhere",
	// What is found, all of it, some, and none.
	"findings": "/findings",
	"narrowed": "/findings?severity=warning&namespace=default&q=default&about=/pools/IPPool/default/dkp-cluster",
	"nothing":  "/findings?q=nothing-of-the-kind",
}

// tab is a tab of a browser that was let in.
type tab struct {
	*testing.T
	ctx    context.Context
	client client.WithWatch
	origin string
	// stop ends the server of the page.
	stop context.CancelFunc

	mu       sync.Mutex
	problems []string
}

// open starts Chromium on the page of a cluster that has one of everything.
func open(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("the tests of the page need Chromium: install the package chromium, or put a program of that name on the PATH")
	}
	c, err := cluster.New(cluster.Full()...)
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	server, err := web.NewServer(serving, web.Options{Source: cluster.Source(c), Client: c, Context: "prod-mgmt"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(serving)
	}()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path))
	if os.Geteuid() == 0 {
		// Chromium has no sandbox for root.
		options = append(options, chromedp.NoSandbox)
	}
	limited, cancel := context.WithTimeout(t.Context(), patience)
	allocator, cancelAllocator := chromedp.NewExecAllocator(limited, options...)
	ctx, cancelTab := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		cancelTab()
		cancelAllocator()
		cancel()
		stop()
		<-served
	})
	b := &tab{T: t, ctx: ctx, client: c, stop: stop}
	b.origin, _, _ = strings.Cut(server.URL(), "/?")
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	command(b, log.Enable, cdp.Empty{})
	b.do(chromedp.Navigate(server.URL()), chromedp.WaitVisible(chromedp.CSS("h1")))
	return b
}

// listen notes what the browser has to complain of.
func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		b.problems = append(b.problems, e.Entry.Text+" "+e.Entry.URL)
	case *runtime.EventExceptionThrown:
		b.problems = append(b.problems, e.ExceptionDetails.Text)
	}
}

// complaints are what the browser complained of up to now.
func (b *tab) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// command has the browser do something that no action is for.
func command[P, R any](b *tab, c cdp.Command[P, R], params P) {
	b.Helper()
	if _, err := chromedp.Call(b.ctx, c, params); err != nil {
		b.Fatal(err)
	}
}

func (b *tab) visit(target string) {
	b.Helper()
	b.do(chromedp.Navigate(b.origin+target), ready("#page-main"))
}

// usable waits until the keys work.
func (b *tab) usable() {
	b.Helper()
	b.until(`document.documentElement.classList.contains("live")`)
}

// found waits until what looks wrong was looked at twice.
func (b *tab) found() {
	b.Helper()
	b.until(`document.getElementById("page-links").textContent.includes("Findings (1 error, 5 warnings)")`)
}

// ready waits until there is such an element.
func ready(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitReady(chromedp.CSS(selector))
}

// evaluate is the value of an expression, once it has one.
func evaluate[V any](b *tab, expression string) V {
	b.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[V](expression, chromedp.EvalAsValue, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatal(err)
	}
	return value
}

// until waits until an expression is true. A page on its way to another has no values.
func (b *tab) until(expression string) {
	b.Helper()
	for {
		if is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression)); err == nil && is {
			return
		}
		select {
		case <-b.ctx.Done():
			b.Fatalf("it does not come to be that %s", expression)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// look changes how wide the window is and which colours the user wants.
func (b *tab) look(width int64, scheme string) {
	b.Helper()
	b.do(chromedp.EmulateViewport(width, 900))
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// script runs a script for what it does.
func script(source string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](source + "; undefined")
}
