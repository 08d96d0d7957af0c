package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// Variables of these tests: browserEnv=must makes a missing browser a failure,
// shotsEnv names a folder that takes pictures of every state.
const (
	browserEnv = "SLUICE_TEST_BROWSER"
	shotsEnv   = "CONSOLE_TEST_SHOTS"
)

// chrome is a running browser.
type chrome struct{ ctx context.Context }

// browser starts a headless Chromium with an empty profile, whatever it is called
// here.
func browser(t *testing.T) chrome {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("lang", "en-US"))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	err := chromedp.Do(ctx)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv(browserEnv) != "must" {
		t.Skip("no Chromium here: the console is not tried in a browser (apt-get install chromium)")
	}
	require.NoError(t, err, "start Chromium (apt-get install -y --no-install-recommends chromium)")
	return chrome{ctx}
}

// page is one tab, with what went wrong in it.
type page struct {
	t    *testing.T
	ctx  context.Context
	base string

	mu      sync.Mutex
	wrong   []string
	foreign []string
}

// openPage opens a tab at the console.
func openPage(t *testing.T, browser chrome, base, fragment string, width int64, dark bool) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser.ctx)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx))
	ctx, cancelTime := context.WithTimeout(ctx, 100*time.Second)
	t.Cleanup(cancelTime)
	p := &page{t: t, ctx: ctx, base: base}
	host := strings.TrimPrefix(base, "http://")
	require.NoError(t, chromedp.Listen(ctx, func(ev any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := ev.(type) {
		case *network.EventRequestWillBeSent:
			if u, err := url.Parse(e.Request.URL); err != nil || u.Host != host {
				p.foreign = append(p.foreign, e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			p.wrong = append(p.wrong, e.ExceptionDetails.Text+" "+e.ExceptionDetails.URL)
		case *runtime.EventConsoleAPICalled:
			p.wrong = append(p.wrong, "console."+string(e.Type))
		case *cdplog.EventEntryAdded:
			p.wrong = append(p.wrong, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	}))
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	p.look(width, dark)
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate(base+"/"+fragment)))
	return p
}

// look sets the width and the colours of the page.
func (p *page) look(width int64, dark bool) {
	p.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	require.NoError(p.t, chromedp.Do(p.ctx, chromedp.EmulateViewport(width, 900)))
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	require.NoError(p.t, err)
}

// eval runs JavaScript in the page.
func eval[T any](p *page, script string) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, script)
	return v
}

// until waits until the expression is true.
func (p *page) until(what, script string) {
	p.t.Helper()
	for end := time.Now().Add(45 * time.Second); ; {
		if eval[bool](p, "!!("+script+")") {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%s: not in time; the page says:\n%s", what, eval[string](p, "document.body.innerText"))
		}
		require.NoError(p.t, pause(p.ctx))
	}
}

func pause(ctx context.Context) error {
	select {
	case <-time.After(50 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// says waits until the page shows the text.
func (p *page) says(text string) {
	p.t.Helper()
	p.until("the page shows "+text, fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// quiet says that nothing went wrong and nothing was asked of another host.
func (p *page) quiet() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Empty(p.t, p.wrong, "messages in the browser's console")
	require.Empty(p.t, p.foreign, "requests to other hosts")
}

// fits says that nothing is wider than the page.
func (p *page) fits() {
	p.t.Helper()
	require.Empty(p.t, eval[[]string](p, `(() => {
		const wide = document.documentElement.clientWidth;
		const out = document.documentElement.scrollWidth > wide ? ['the page is ' + document.documentElement.scrollWidth + ' wide'] : [];
		for (const e of document.querySelectorAll('main *')) {
			if (!e.checkVisibility()) continue;
			const r = e.getBoundingClientRect();
			const c = getComputedStyle(e);
			if (r.width > 1 && r.right > wide + 1 && c.clipPath === 'none') out.push(e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40) + ' ends at ' + r.right);
			if (e.scrollWidth > e.clientWidth + 1 && c.overflowX === 'hidden' && c.clipPath === 'none' && e.clientWidth > 1) out.push(e.tagName + '.' + e.className + ' hides ' + e.textContent.slice(0, 40));
		}
		return out.slice(0, 5);
	})()`))
}

// contrast finds text that is hard to read: less than 4.5:1, 3:1 for large text.
const contrast = `(() => {
	const rgb = (s) => { const m = s.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
	const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
	const lum = (c) => [0.2126, 0.7152, 0.0722].reduce((n, w, i) => { const v = c[i] / 255; return n + w * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
	const bad = [];
	const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walk.nextNode());) {
		const e = n.parentElement;
		if (!n.textContent.trim() || !e.checkVisibility() || e.closest('.sr, .skip, noscript, button:disabled')) continue;
		const s = getComputedStyle(e);
		let back = [255, 255, 255, 0];
		for (let p = e; p; p = p.parentElement) {
			const c = rgb(getComputedStyle(p).backgroundColor);
			if (c[3] > 0) { back = back[3] > 0 ? over(back, c) : c; if (c[3] === 1) break; }
		}
		const [a, b] = [lum(over(rgb(s.color), back)), lum(back)].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(s.fontSize);
		const need = size >= 24 || (size >= 18.6 && s.fontWeight >= 700) ? 3 : 4.5;
		if (ratio < need) bad.push(n.textContent.trim().slice(0, 30) + ': ' + ratio.toFixed(2) + ' of ' + need);
	}
	return bad;
})()`

// roles lists what a screen reader finds, as "role: name".
func (p *page) roles() []string {
	p.t.Helper()
	tree, err := chromedp.Call(p.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	require.NoError(p.t, err)
	var out []string
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		out = append(out, textOf(n.Role)+": "+textOf(n.Name))
	}
	return out
}

func textOf(v *accessibility.Value) string {
	text := ""
	if v != nil && json.Unmarshal(v.Value, &text) != nil {
		return string(v.Value)
	}
	return text
}

// shoot takes a picture of the whole page, when pictures are wanted.
func (p *page) shoot(name string) {
	p.t.Helper()
	dir := os.Getenv(shotsEnv)
	if dir == "" {
		return
	}
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600))
}
