package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

const (
	// pageSize is the most rows asked for at once.
	pageSize = 1000
	// pageTries is how often one page is asked for.
	pageTries = 8
	// maxIdle is how many pages in a row may bring nothing.
	maxIdle = 100
	// listed marks a listing that was read to its end.
	listed = "!done"
)

// HostURL is the base URL of a host as an operator writes it: a name with or
// without a scheme, where none means TLS.
func HostURL(host string) (string, error) {
	text := host
	switch scheme, rest, found := strings.Cut(host, "://"); {
	case !found:
		text = "https://" + host
	case scheme == "wss":
		text = "https://" + rest
	case scheme == "ws":
		text = "http://" + rest
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fault.Permanentf("%.100q is not a host: want NAME, NAME:PORT or https://NAME", host)
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

// NewListClient makes the client that reads listings: of the host that the
// operator names, and of no other that this one sends to.
func NewListClient(agent string) (*http.Client, error) {
	c, err := atproto.NewHTTPClient(atproto.HTTPConfig{Trusted: true, Timeout: time.Minute, UserAgent: agent})
	if err != nil {
		return nil, err
	}
	bounded := c.CheckRedirect
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if req.URL.Host != via[0].URL.Host {
			return fault.Permanentf("%w: it sends to %s; name that host", atproto.ErrRedirect, req.URL.Host)
		}
		return bounded(req, via)
	}
	return c, nil
}

// Listed is how a run over a listing ended.
type Listed struct {
	// Resumed: it went on where an earlier run had stopped.
	Resumed bool
	// End: the listing was read to its end; else another run goes on.
	End bool
}

// walk is one run over a listing.
type walk struct {
	list  *atproto.Listing
	host  string
	size  int
	retry fault.Backoff
}

// AddListing adds every repository that the host lists, at most about limit.
// The place is kept in Redis with the jobs, so that a run that is interrupted
// is continued by the next one; restart begins anew.
func (a *Adder) AddListing(ctx context.Context, list *atproto.Listing, limit int64, restart bool) (Listed, error) {
	w := &walk{list: list, size: pageSize, retry: fault.Backoff{Initial: time.Second, Max: 30 * time.Second}}
	_, w.host, _ = strings.Cut(list.Host, "://")
	key := a.Stream + ":added:" + w.host
	if list.Collection != "" {
		key += "/" + list.Collection
	}
	at, err := a.place(ctx, key, restart)
	if err != nil {
		return Listed{}, err
	}
	out := Listed{Resumed: at != ""}
	idle := 0
	for left := limit; left > 0; {
		page, err := w.next(ctx, at, min(int64(w.size), left))
		if err != nil {
			return out, err
		}
		next := page.Cursor
		if next == "" {
			next = listed
		}
		before := a.Counts.Added.Load()
		if err := a.addPage(ctx, key, at, next, a.choose(w.host, &page)); err != nil {
			return out, err
		}
		left -= max(a.Counts.Added.Load()-before, 0)
		if next == listed {
			out.End = true
			return out, a.redis.DeleteCursor(ctx, key)
		}
		if idle++; len(page.Repos) > 0 {
			idle = 0
		}
		if idle >= maxIdle {
			return out, fmt.Errorf("%d pages in a row of %s bring nothing", idle, w.host)
		}
		at = next
	}
	return out, nil
}

// place is the cursor from which the listing is read.
func (a *Adder) place(ctx context.Context, key string, restart bool) (string, error) {
	at, found, err := a.redis.Cursor(ctx, key)
	if err != nil || !found {
		return "", err
	}
	if restart || at == listed {
		return "", a.redis.DeleteCursor(ctx, key)
	}
	return at, nil
}

// choose are the repositories of a page that can be fetched.
func (a *Adder) choose(host string, page *atproto.ListPage) []Repo {
	repos := make([]Repo, 0, len(page.Repos))
	for _, r := range page.Repos {
		if !r.Active {
			a.Counts.Inactive.Add(1)
			continue
		}
		if _, err := syntax.ParseTID(r.Rev); err != nil {
			r.Rev = "" // it says nothing about what is newer
		}
		repos = append(repos, Repo{DID: r.DID, Host: host, Rev: r.Rev})
	}
	a.Counts.Seen.Add(int64(len(page.Repos) + page.Bad))
	a.Counts.Bad.Add(int64(page.Bad))
	return repos
}

// final says that somebody who waits for the answer need not ask again.
func final(err error) bool {
	status, ok := errors.AsType[*atproto.StatusError](err)
	return errors.Is(err, atproto.ErrCursor) || ok && status.Status >= 400 && status.Status < 500 && status.Status != http.StatusRequestTimeout
}

// next asks for a page until it comes, for smaller ones after an error.
func (w *walk) next(ctx context.Context, at string, size int64) (atproto.ListPage, error) {
	for attempt := 1; ; attempt++ {
		page, err := w.list.Page(ctx, at, int(size))
		if err == nil {
			w.size = min(2*w.size, pageSize)
			return page, nil
		}
		if ctx.Err() != nil {
			return page, ctx.Err()
		}
		if fault.ClassOf(err) != fault.Transient || attempt >= pageTries || final(err) {
			return page, err
		}
		wait := w.retry.Delay(attempt)
		if slow, ok := errors.AsType[*atproto.ThrottledError](err); ok {
			wait = max(wait, slow.After)
		} else {
			w.size = max(w.size/2, 1)
			size = min(size, int64(w.size))
		}
		if err := fault.Sleep(ctx, wait); err != nil {
			return page, err
		}
	}
}
