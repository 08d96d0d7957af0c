package backfill

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"sluice/pkg/atproto"
	"sluice/pkg/fault"
)

// maxErrorBody bounds what is read of an answer that is not a repository.
const maxErrorBody = 16 << 10

// FetchConfig bounds one getRepo request.
type FetchConfig struct {
	// Timeout bounds the wait for the response headers and every single read
	// of the body. There is no bound on the whole: a large repository may take
	// as long as it moves. Default 60s.
	Timeout time.Duration
	// MinRate is the least bytes per second, measured over RateWindow of time
	// spent waiting for the host. Default 1024.
	MinRate int64
	// RateWindow is the waiting time over which MinRate is judged. Default 20s.
	RateWindow time.Duration
	// MaxBytes bounds the body. Default 2 GiB.
	MaxBytes int64
	// UserAgent names us to the host.
	UserAgent string
}

func (c FetchConfig) withDefaults() FetchConfig {
	if c.Timeout <= 0 {
		c.Timeout = time.Minute
	}
	if c.MinRate <= 0 {
		c.MinRate = 1024
	}
	if c.RateWindow <= 0 {
		c.RateWindow = 20 * time.Second
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 2 << 30
	}
	if c.UserAgent == "" {
		c.UserAgent = "sluice-backfiller"
	}
	return c
}

// fetcher asks a PDS for a repository.
type fetcher struct {
	client *http.Client
	cfg    FetchConfig
}

// body is a repository on its way. Its Read fails with a *RepoError when the
// host is too slow, stops early or sends too much.
type body struct {
	io.ReadCloser
	// Pause is the wait that the rate limit of the host announces.
	Pause time.Duration

	cfg    FetchConfig
	cancel context.CancelCauseFunc
	timer  *time.Timer
	total  int64
	window int64
	waited time.Duration
	// expired is set by the timer, which cancels the request.
	expired atomic.Bool
}

// open sends getRepo and returns the body of a 200. Any other outcome is a
// *RepoError, unless ctx has ended.
func (f *fetcher) open(ctx context.Context, pds, did string, reserve int) (*body, error) {
	reqCtx, cancel := context.WithCancelCause(ctx)
	b := &body{cfg: f.cfg, cancel: cancel}
	b.timer = time.AfterFunc(f.cfg.Timeout, func() {
		b.expired.Store(true)
		cancel(errors.New("no progress"))
	})
	resp, err := f.send(reqCtx, pds, did) //nolint:bodyclose // body.Close closes it
	b.timer.Stop()
	if err != nil {
		cancel(err)
		return nil, requestFailure(err, b.expired.Load())
	}
	now := time.Now()
	b.ReadCloser = resp.Body
	if resp.StatusCode != http.StatusOK || !carType(resp.Header) {
		b.timer.Reset(min(f.cfg.Timeout, 10*time.Second))
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		_ = b.Close()
		return nil, refusal(resp, text, now)
	}
	b.Pause = exhausted(resp.Header, reserve, now)
	return b, nil
}

func (f *fetcher) send(ctx context.Context, pds, did string) (*http.Response, error) {
	u := strings.TrimSuffix(pds, "/") + "/xrpc/com.atproto.sync.getRepo?did=" + url.QueryEscape(did)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, http.NoBody)
	if err != nil {
		return nil, failf(BadPDS, "pds %q: %w", pds, err)
	}
	req.Header.Set("Accept", "application/vnd.ipld.car")
	// A body that is not compressed cannot be a decompression bomb, and CARs
	// of hashes compress little.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", f.cfg.UserAgent)
	return f.client.Do(req)
}

// requestFailure classes an error before the response headers.
func requestFailure(err error, expired bool) *RepoError {
	if fail := asFailure(err); fail != nil {
		return fail
	}
	var netErr net.Error
	switch {
	case errors.Is(err, atproto.ErrRedirect):
		return failf(Redirected, "request: %w", err)
	case fault.ClassOf(err) == fault.Permanent:
		return failf(AddressRefused, "request: %w", err)
	case expired, errors.As(err, &netErr) && netErr.Timeout():
		return failf(HostTimeout, "request: %w", err)
	}
	return failf(HostUnreachable, "request: %w", err)
}

// Read reads under the deadline and the least rate.
func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.cfg.Timeout)
	start := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	b.waited += time.Since(start)
	b.window += int64(n)
	b.total += int64(n)
	switch {
	case b.total > b.cfg.MaxBytes:
		return 0, failf(TooLarge, "body above %d bytes", b.cfg.MaxBytes)
	case err == nil:
		return n, b.judge()
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return n, io.EOF
	case b.expired.Load():
		return n, failf(BodySlow, "nothing came for %s after %d bytes", b.cfg.Timeout, b.total)
	}
	return n, failf(BodyCut, "after %d bytes: %w", b.total, err)
}

// judge compares the bytes of the last window with the least rate. Time that
// we spent not reading, behind the gate, does not count.
func (b *body) judge() error {
	if b.waited < b.cfg.RateWindow {
		return nil
	}
	rate := float64(b.window) / b.waited.Seconds()
	b.window, b.waited = 0, 0
	if rate < float64(b.cfg.MinRate) {
		return failf(BodySlow, "%.0f bytes/s after %d bytes", rate, b.total)
	}
	return nil
}

// Close ends the request, whatever is left of it.
func (b *body) Close() error {
	b.timer.Stop()
	b.cancel(context.Canceled)
	return b.ReadCloser.Close()
}

// carType refuses what says of itself that it is no repository: an HTML page
// or a JSON error behind a 200.
func carType(h http.Header) bool {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err != nil || (t != "text/html" && t != "application/json")
}

// refusal classes an answer that is not a repository.
func refusal(resp *http.Response, text []byte, now time.Time) *RepoError {
	var x struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(text, &x)
	f := failf(refusalReason(resp.StatusCode, x.Error), "status %d: %.100q %.200q", resp.StatusCode, x.Error, x.Message)
	f.RetryAfter = retryAfter(resp.Header, now)
	return f
}

func refusalReason(status int, name string) Reason {
	switch name {
	case "RepoNotFound", "AccountNotFound":
		return RepoNotFound
	case "RepoTakendown", "AccountTakedown":
		return RepoTakendown
	case "RepoSuspended", "AccountSuspended":
		return RepoSuspended
	case "RepoDeactivated", "AccountDeactivated":
		return RepoDeactivated
	case "RepoThrottled", "RateLimitExceeded":
		return HostThrottled
	}
	switch {
	case status == http.StatusTooManyRequests:
		return HostThrottled
	case status >= http.StatusInternalServerError:
		return HostError
	}
	return BadResponse
}
