//go:build pictures

package web

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/chromedp"
)

var pictures = flag.String("pictures", "", "The folder to take the pictures of the documentation into.")

func TestPicturesAreTaken(t *testing.T) {
	b := open(t)
	b.found()
	for name, height := range map[string]int64{"pools": 390, "pool": 760, "explain": 450, "findings": 830} {
		b.look(1100, "light")
		b.visit(pages[name])
		b.usable()
		b.do(chromedp.EmulateViewport(1100, height))
		png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*pictures, "web-"+name+".png"), png, 0o644); err != nil { //nolint:gosec // for everybody to see
			t.Fatal(err)
		}
	}
}
