package web

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"capv-static-ip.dev/tests/web/cluster"
)

// widths are those of a phone and of a large screen.
var widths = []int64{320, 1600}

func TestPagesAreAccessible(t *testing.T) {
	source := axe(t)
	b := open(t)
	b.found()
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		b.visit(pages[name])
		b.do(script(source))
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range widths {
				b.look(width, scheme)
				for _, problem := range evaluate[[]string](b, `axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
					.then(r => r.violations.flatMap(v => v.nodes.slice(0, 3).map(n => v.id + ": " + n.html + " " + n.failureSummary)))`) {
					t.Errorf("%s, %s, %d wide: %s", name, scheme, width, problem)
				}
			}
		}
	}
}

func TestBrowserHasNothingToComplainOf(t *testing.T) {
	b := open(t)
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		if name != "none" {
			b.visit(pages[name])
		}
	}
	if complaints := b.complaints(); len(complaints) > 0 {
		t.Errorf("the browser says\n%s", strings.Join(complaints, "\n"))
	}
}

func TestPagesFitANarrowWindow(t *testing.T) {
	b := open(t)
	b.found()
	b.look(320, "light")
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		b.visit(pages[name])
		if width := evaluate[int](b, `document.documentElement.scrollWidth`); width > 320 {
			t.Errorf("%s is %d wide", name, width)
		}
	}
}

func TestDarkIsDarkAndLightIsLight(t *testing.T) {
	b := open(t)
	for scheme, want := range map[string]string{"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"} {
		b.look(1600, scheme)
		if got := evaluate[string](b, `getComputedStyle(document.body).backgroundColor`); got != want {
			t.Errorf("%s is %s, want %s", scheme, got, want)
		}
	}
}

// press presses keys one after the other.
func (b *tab) press(keys ...string) {
	b.Helper()
	for _, key := range keys {
		b.do(chromedp.KeyEvent(key))
	}
}

// focused is the id of what has the focus, or its text.
func (b *tab) focused() string {
	b.Helper()
	return evaluate[string](b, `document.activeElement.id || document.activeElement.textContent`)
}

// tabTo presses Tab until something has the focus.
func (b *tab) tabTo(want string) {
	b.Helper()
	for range 40 {
		if b.focused() == want {
			return
		}
		b.press(kb.Tab)
	}
	b.Fatalf("Tab does not lead to %q, but to %q", want, b.focused())
}

func TestKeyboardIsEnough(t *testing.T) {
	b := open(t)
	b.tabTo("InClusterIPPool/workers")
	b.press(kb.Enter)
	b.do(ready(`#a-10\.16\.57\.32`))
	b.usable()
	b.tabTo("a-10.16.57.32")
	for _, step := range []struct{ key, want string }{
		{kb.ArrowRight, "a-10.16.57.33"}, {kb.ArrowDown, "a-10.16.57.65"}, {kb.ArrowLeft, "a-10.16.57.64"}, {kb.End, "a-10.16.57.95"},
		{kb.ArrowRight, "a-10.16.57.95"}, {kb.Home, "a-10.16.57.64"}, {kb.ArrowUp, "a-10.16.57.32"}, {kb.ArrowUp, "a-10.16.57.32"},
	} {
		b.press(step.key)
		if got := b.focused(); got != step.want {
			t.Fatalf("%q leads to %s, want %s", step.key, got, step.want)
		}
	}
	b.press(kb.Enter)
	b.do(ready(`.story`))
	b.usable()
	if got := evaluate[string](b, `location.pathname`); got != "/addresses/10.16.57.32" {
		t.Errorf("Enter leads to %s", got)
	}
	b.press("/")
	if got := b.focused(); got != "search" {
		t.Errorf("/ leads to %s", got)
	}
	b.press("l", "b", "-", "o", "l", "d", kb.Enter)
	b.until(`location.pathname === "/objects/VSphereMachine/default/lb-old"`)
	b.usable()
	b.press("?")
	b.do(chromedp.WaitVisible(chromedp.CSS("#help")))
	b.press(kb.Escape)
	b.do(chromedp.WaitNotVisible(chromedp.CSS("#help")))
}

func TestFindingIsReachedByKeyboardAndGoesByItself(t *testing.T) {
	b := open(t)
	b.found()
	b.tabTo("Findings (1 error, 5 warnings)")
	b.press(kb.Enter)
	b.do(ready(".findings"))
	b.usable()
	b.tabTo("10.16.57.77")
	b.press(kb.Enter)
	b.do(ready(".story"))
	b.usable()
	b.tabTo("error SIP-001")
	b.press(kb.Enter)
	b.do(ready("tr:target"))
	b.usable()
	if got := evaluate[string](b, `document.querySelector("tr:target th a").textContent`); got != "10.16.57.77" {
		t.Errorf("the finding that it leads to is of %s", got)
	}
	b.tabTo("All findings")
	b.press(kb.Enter)
	b.until(`document.querySelectorAll(".findings tbody tr").length === 6`)
	b.usable()
	b.tabTo("filter-text")
	b.press("e", "d", "g")
	b.do(script(`window.same = true; document.getElementById("filter-namespace").value = "default"`))

	if err := b.client.Delete(t.Context(), cluster.Machine("default", "lb-old", "dkp")); err != nil {
		t.Fatal(err)
	}

	b.until(`document.getElementById("page-links").textContent.includes("Findings (5 warnings)")`)
	b.until(`document.querySelectorAll(".findings tbody tr").length === 5`)
	if got := evaluate[string](b, `[window.same, document.activeElement.id, document.getElementById("filter-text").value, document.getElementById("filter-namespace").value].join()`); got != "true,filter-text,edg,default" {
		t.Errorf("what was typed and chosen is now %s", got)
	}
	b.press("e", kb.Enter)
	b.until(`new URLSearchParams(location.search).get("q") === "edge" && new URLSearchParams(location.search).get("namespace") === "default"`)
}

func TestMachineAppearsWithoutReload(t *testing.T) {
	b := open(t)
	b.visit(pages["pool"])
	b.usable()
	b.do(script(`window.same = true; window.scrollTo(0, 400); document.getElementById("a-10.16.57.32").focus({preventScroll: true})`))
	b.press(kb.ArrowRight)
	before := evaluate[float64](b, `scrollY`)
	for _, object := range cluster.Held("default", "md-0-new", "dkp", cluster.InCluster("workers"), "10.16.57.190") {
		if err := b.client.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	b.do(ready(`.used #a-10\.16\.57\.190`))
	if !evaluate[bool](b, `window.same === true`) {
		t.Error("the page was loaded anew")
	}
	if got := b.focused(); got != "a-10.16.57.33" {
		t.Errorf("the focus is on %s", got)
	}
	if got := evaluate[string](b, `[...document.querySelectorAll(".grid a[tabindex='0']")].map(a => a.id).join()`); got != "a-10.16.57.33" {
		t.Errorf("Tab comes back to %s", got)
	}
	if after := evaluate[float64](b, `scrollY`); after != before {
		t.Errorf("the page was scrolled from %v to %v", before, after)
	}
}

func TestPageSaysThatItsServerIsGone(t *testing.T) {
	b := open(t)
	b.usable()
	b.stop()
	b.until(`document.getElementById("lost").textContent.startsWith("disconnected since ")`)
}

func TestPagesWorkWithoutScripts(t *testing.T) {
	b := open(t)
	command(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.visit(pages["pool"])
	b.do(chromedp.Click(chromedp.CSS(`#a-10\.16\.57\.77`)), chromedp.WaitVisible(chromedp.CSS(".story .wrong")))
}

func TestSixteenBitsOfAddressesAreALightPage(t *testing.T) {
	b := open(t)
	b.visit(pages["blocks"])
	if nodes := evaluate[int](b, `document.querySelectorAll("*").length`); nodes >= 2000 {
		t.Errorf("the page has %d elements, want fewer than 2000", nodes)
	}
	b.do(chromedp.Click(chromedp.CSS(`#b-10\.20\.4\.0`)), ready(`#a-10\.20\.4\.1`))
	if got := evaluate[string](b, `document.getElementById("grid-title").textContent`); got != "Addresses of 10.20.4.0/24" {
		t.Errorf("the grid is called %q", got)
	}
}

func TestOtherBrowserIsKeptOut(t *testing.T) {
	b := open(t)
	other, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	defer cancel()
	if err := chromedp.Do(other, chromedp.Navigate(b.origin+"/pools")); err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(other, chromedp.Text(chromedp.CSS("body")))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "Open the link that the terminal shows.") {
		t.Errorf("it sees %q", text)
	}
	b.visit("/pools")
	if text := evaluate[string](b, `document.cookie`); text != "" {
		t.Errorf("a script can read the cookie %q", text)
	}
}
