package plc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

const (
	// pageLines is the most that a directory gives at once.
	pageLines = 1000
	// maxPage bounds one page, in bytes.
	maxPage = 64 << 20
	// pageTries is how often one page is asked for.
	pageTries = 8
)

// Remote imports from an address: the export endpoint of a directory page by
// page from a time on, anything else as one file.
func (im *Importer) Remote(ctx context.Context, client *http.Client, address string, after time.Time) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fault.Permanentf("%.100q is no http(s) address", address)
	}
	if strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/export") {
		return im.pages(ctx, client, u, after)
	}
	resp, err := get(ctx, client, u.String())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return im.Read(ctx, resp.Body)
}

// pages reads an export in the order of time. Pages overlap by a millisecond,
// since operations of the same time may be on both sides of an end.
func (im *Importer) pages(ctx context.Context, client *http.Client, u *url.URL, after time.Time) error {
	for {
		q := u.Query()
		q.Set("count", strconv.Itoa(pageLines))
		if !after.IsZero() {
			q.Set("after", after.UTC().Format("2006-01-02T15:04:05.000Z"))
		}
		at := *u
		at.RawQuery = q.Encode()
		page, err := im.page(ctx, client, at.String())
		if err != nil {
			return err
		}
		before, bad := im.Counts.Lines.Load(), im.Counts.Bad.Load()
		if err := im.Read(ctx, bytes.NewReader(page)); err != nil {
			return err
		}
		if im.Counts.Lines.Load()-before < pageLines {
			return nil
		}
		last := im.Counts.LastTime()
		switch next := last.Add(-time.Millisecond); {
		case next.After(after):
			after = next
		case last.After(after):
			after = last
		default:
			return fmt.Errorf("the export does not go on after %s (%d lines of the page are bad)", after.Format(time.RFC3339Nano), im.Counts.Bad.Load()-bad)
		}
	}
}

// page asks for a page until it comes whole.
func (im *Importer) page(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		body, err := fetch(ctx, client, address)
		if err == nil {
			return body, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if fault.ClassOf(err) != fault.Transient || attempt >= pageTries {
			return nil, err
		}
		wait := fault.Backoff{Initial: time.Second, Max: time.Minute}.Delay(attempt)
		if asked, ok := errors.AsType[*atproto.ThrottledError](err); ok {
			wait = max(wait, asked.After)
		}
		if err := fault.Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func fetch(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	resp, err := get(ctx, client, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage+1))
	if err == nil && len(body) > maxPage {
		err = fault.Permanentf("page above %d bytes", maxPage)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", address, err)
	}
	return body, nil
}

func get(ctx context.Context, client *http.Client, address string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, fault.Permanentf("request %s: %w", address, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", address, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		err = &atproto.ThrottledError{Status: resp.StatusCode, After: atproto.AskedWait(resp.Header, time.Now())}
	case resp.StatusCode < http.StatusInternalServerError:
		err = fault.Permanentf("status %d", resp.StatusCode)
	default:
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil, fmt.Errorf("request %s: %w", address, err)
}
