package app

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

// TestConsoleInABrowser looks at the console in three states, wide and narrow,
// light and dark, as people with and without a mouse, eyes or colours do.
func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	tab := browser(t)
	database := testkit.StartPostgres(t, "fsync=on", "synchronous_commit=off").URL
	for _, state := range []struct {
		name  string
		build func(t *testing.T, database string) *stage
		says  []string
		roles []string
		title string
	}{
		{
			"healthy", healthyStage,
			[]string{
				"Healthy", "3 reading", "2 reading", "bsky.network", "listed to the end", "Nothing is parked", "checks are fine",
				"215 M records", "the backfill has done 2,600 of", "left at", "indexer-3",
			},
			[]string{"heading: Healthy", "table: Streams", "table: Consumers", "meter: fill of firehose_live", "meter: repositories done", "button: Actions locked"},
			"● Healthy – sluice",
		},
		{
			"behind", behindStage,
			[]string{
				"Behind", "the oldest entry of firehose_live waits for", "firehose_backfill is at its mark of 20,000", "gate closed for",
				"indexer-1 (firehose_group)", "bad_record", "car_truncated",
			},
			[]string{"heading: Behind", "button: Inspect bad_record of firehose_live", "rowheader: firehose_backfill", "table: Parked entries"},
			"▲ Behind – sluice",
		},
		{
			"broken", brokenStage,
			[]string{
				"Broken", "nobody reads firehose_live for firehose_group", "unknown group debug_group", "dead, holds entries",
				"redis-cli XGROUP DESTROY firehose_live debug_group", "0 reading",
			},
			[]string{"heading: Broken", "cell: ✕ dead, holds entries"},
			"■ Broken – sluice",
		},
	} {
		t.Run(state.name, func(t *testing.T) {
			s := state.build(t, database)
			p := openPage(t, tab, s.serve(), "", 1600, false)
			for _, text := range state.says {
				p.says(text)
			}
			p.until("the title is "+state.title, fmt.Sprintf("document.title === %q", state.title))
			p.until("the lag is drawn", "document.querySelectorAll('#charts .line').length === 4 && document.querySelector('#charts .line').getAttribute('d').length > 50")
			roles := p.roles()
			for _, want := range append(state.roles, "banner: ", "main: ", "contentinfo: ", "status: ", "columnheader: Floor held by", "rowheader: firehose_live", "region: The road", "image: ") {
				require.True(t, containsPrefix(roles, want), "a screen reader finds no %q in\n%s", want, strings.Join(roles, "\n"))
			}
			require.Equal(t, "none", eval[string](p, "getComputedStyle(document.querySelector('.flow .line')).animationName"), "motion though it is not wanted")
			for _, width := range []int64{1600, 1024, 768, 380} {
				for _, dark := range []bool{false, true} {
					p.look(width, dark)
					p.fits()
					require.Empty(t, eval[[]string](p, contrast), "%d dark=%v", width, dark)
					p.shoot(fmt.Sprintf("console-%s-%d-%s", state.name, width, map[bool]string{true: "dark", false: "light"}[dark]))
				}
			}
			p.quiet()
		})
	}
	t.Run("by keyboard", func(t *testing.T) { consoleByKeyboard(t, tab) })
	t.Run("token in the link", func(t *testing.T) { consoleTokenInTheLink(t, tab) })
	t.Run("other pages", func(t *testing.T) { consoleRefusesOtherPages(t, tab) })
}

func containsPrefix(list []string, prefix string) bool {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// press types keys into the page.
func (p *page) press(keys ...string) {
	p.t.Helper()
	for _, k := range keys {
		require.NoError(p.t, chromedp.Do(p.ctx, chromedp.KeyEvent(k)))
	}
}

const focused = "((e) => (e.getAttribute('aria-label') || e.textContent || e.id).trim())(document.activeElement)"

// tabTo presses Tab until the element with the label has the focus, and looks
// whether the focus can be seen on the way.
func (p *page) tabTo(label string) {
	p.t.Helper()
	var seen []string
	for range 60 {
		p.press(kb.Tab)
		at := eval[string](p, focused)
		if document := eval[string](p, "document.activeElement.tagName"); document != "BODY" && document != "INPUT" {
			require.NotEqual(p.t, "none", eval[string](p, "getComputedStyle(document.activeElement).outlineStyle"), "the focus on %q cannot be seen", at)
		}
		if strings.HasPrefix(at, label) {
			return
		}
		seen = append(seen, at)
	}
	p.t.Fatalf("Tab never comes to %q: %q", label, seen)
}

// consoleByKeyboard inspects a parked entry, drives it back, and drops the
// rest, without a mouse.
func consoleByKeyboard(t *testing.T, tab chrome) {
	t.Helper()
	s := newStage(t)
	s.park("firehose_live", "bad_record", "text too long", 3)
	p := openPage(t, tab, s.serve(), "", 1024, false)
	p.says("bad_record")
	p.press(kb.Tab)
	require.Equal(t, "Skip to the verdict", eval[string](p, focused))
	p.tabTo("Inspect bad_record")
	p.press(kb.Enter)
	p.says("text too long")
	require.Equal(t, "bad_record of firehose_live", eval[string](p, focused), "the focus goes to what was opened")
	p.tabTo("17") // an id
	p.press(kb.Enter)
	p.says(`"collection": "app.bsky.feed.like"`)
	p.shoot("console-inspect")
	p.tabTo("Redrive this one")
	p.press(kb.Enter)
	p.until("the token is asked for", "document.getElementById('token-dialog').open && document.activeElement.id === 'token'")
	p.press("wrong", kb.Enter)
	p.says("the token is not the right one")
	require.EqualValues(t, 0, s.length("firehose_live"), "refused, and nothing done")
	eval[string](p, "document.getElementById('token').value = ''")
	p.press(stageToken, kb.Enter)
	p.says("1 entry appended to firehose_live again")
	require.EqualValues(t, 1, s.length("firehose_live"))
	p.until("two are left", "document.querySelector('#parked td.n').textContent === '2'")
	require.Equal(t, "Actions unlocked", eval[string](p, "document.getElementById('lock').textContent"))

	eval[string](p, "(document.activeElement.blur(), document.getElementById('parked-title').scrollIntoView(), '')")
	eval[string](p, "(document.querySelector('#parked button').focus(), '')")
	p.tabTo("Drop … bad_record")
	p.press(kb.Enter)
	p.says("will be deleted for good")
	p.shoot("console-drop")
	require.EqualValues(t, 2, s.length("firehose_live_dlq"), "it asks first")
	p.press(kb.Escape)
	p.until("the question is gone", "!document.getElementById('confirm-dialog').open")
	p.tabTo("Inspect")
	p.tabTo("Drop … bad_record")
	p.press(kb.Enter)
	p.tabTo("Drop 2 entries")
	p.press(kb.Enter)
	p.says("2 entries dropped")
	p.says("Nothing is parked")
	require.EqualValues(t, 0, s.length("firehose_live_dlq"))
}

func (s *stage) length(stream string) int64 {
	s.t.Helper()
	n, err := s.client.Len(s.t.Context(), stream)
	require.NoError(s.t, err)
	return n
}

// consoleTokenInTheLink comes with the token after the #, which is taken
// out of the address.
func consoleTokenInTheLink(t *testing.T, tab chrome) {
	t.Helper()
	s := newStage(t)
	p := openPage(t, tab, s.serve(), "#token="+stageToken, 1024, false)
	p.until("it is unlocked", "document.getElementById('lock').textContent === 'Actions unlocked'")
	require.Equal(t, p.base+"/", eval[string](p, "location.href"))
	p.quiet()
}

// consoleRefusesOtherPages asks for an action from a page of another origin.
func consoleRefusesOtherPages(t *testing.T, tab chrome) {
	t.Helper()
	s := newStage(t)
	s.park("firehose_live", "bad_record", "text too long", 1)
	base := s.serve()
	_, port, _ := strings.Cut(strings.TrimPrefix(base, "http://"), ":")
	p := openPage(t, tab, base, "", 1024, false)
	require.NoError(t, chromedp.Do(p.ctx, chromedp.Navigate("http://localhost:"+port+"/"))) // another origin, the same console
	for _, mode := range []string{"cors", "no-cors"} {
		got := eval[string](p, fmt.Sprintf(`fetch('%s/api/letters/redrive', {method: 'POST', mode: '%s', body: '{"stream":"firehose_live","reason":"bad_record"}'}).then((r) => r.type + ' ' + r.status, (e) => 'refused')`, base, mode))
		require.NotContains(t, got, "200")
	}
	require.EqualValues(t, 1, s.length("firehose_live_dlq"), "a page of another origin drove an entry back")
}

// TestServeNeedsATokenBeyondLoopback starts it the wrong ways.
func TestServeNeedsATokenBeyondLoopback(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	empty := t.TempDir() + "/empty"
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, args := range map[string][]string{
		"CONSOLE_LISTEN=0.0.0.0:4180: others than this machine could read: set CONSOLE_TOKEN_FILE": {"serve", "--listen", "0.0.0.0:4180"},
		"CONSOLE_LISTEN=4180: want host:port":                                                      {"serve", "--listen", "4180"},
		"CONSOLE_TOKEN: want at least 16 characters":                                               {"serve", "--console-token", "short"},
		"--token-file: open /nonexistent: no such file":                                            {"serve", "--token-file", "/nonexistent"},
		"is empty: want a token":                                                                   {"serve", "--token-file", empty},
		"CONSOLE_HOSTS=https://a: want names of hosts":                                             {"serve", "--console-hosts", "https://a"},
		"connection refused":                                                                       {"serve", "--health", "--listen", "127.0.0.1:1"},
		"address already in use":                                                                   {"serve", "--listen", redisAddr(r)},
		`unknown command "now" for "streamctl serve"`:                                              {"serve", "now"},
		"--console-lag-secs=0: must be at least 1s":                                                {"serve", "--console-lag-secs", "0"},
	} {
		code, _, errs := r.run(args...)
		require.Equal(t, 1, code, args)
		require.Contains(t, errs, want)
		require.Equal(t, 1, strings.Count(strings.TrimSpace(errs), "\n")+1, "one line: %s", errs)
	}
}

func redisAddr(r *rig) string {
	for _, kv := range r.env {
		if v, ok := strings.CutPrefix(kv, "REDIS_URL=redis://"); ok {
			addr, _, _ := strings.Cut(v, "/")
			return addr
		}
	}
	return ""
}

// TestServeWithoutRedis shows that Redis is away and goes on.
func TestServeWithoutRedis(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.env = append(s.env, "REDIS_URL=redis://u:secret@127.0.0.1:1")
	base := s.serve()
	require.Eventually(t, func() bool {
		res, err := http.Get(base + "/api/view")
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }()
		var b strings.Builder
		_ = res.Write(&b)
		require.NotContains(t, b.String(), "secret")
		return strings.Contains(b.String(), `"state":"broken"`) && strings.Contains(b.String(), "Redis cannot be seen")
	}, 30*time.Second, 100*time.Millisecond)
	code, _, errs := s.run("serve", "--health")
	require.Equal(t, 0, code, errs)
}
