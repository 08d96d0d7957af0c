// Package firehose keeps one subscription to an event stream of the AT Protocol
// open: it dials, reads, pings, notices silence, and connects again at the
// cursor. It knows messages and not what is in them.
//
// Messages go to the handler one at a time, in order. While the handler is
// busy nothing is read, so TCP holds the sender back; nothing is queued here and
// nothing is dropped.
package firehose

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/pkg/fault"
)

// The methods of the event streams.
const (
	SubscribeRepos  = "com.atproto.sync.subscribeRepos"
	SubscribeLabels = "com.atproto.label.subscribeLabels"
)

// Config configures a Subscription. Host, Method, Cursor and Handle must be
// set.
type Config struct {
	// Host is the server as in a setting: a host, maybe with a port, and maybe a
	// scheme before it. wss:// and https:// mean TLS, and so does none; ws:// and
	// http:// mean none.
	Host string
	// Method is the XRPC method.
	Method string
	// Cursor is asked before each connection. ok false: none is sent, and the
	// stream begins with what is new. An error is retried like that of a dial,
	// unless it is Fatal.
	Cursor func(ctx context.Context) (seq int64, ok bool, err error)
	// Handle takes one message, which is its own to keep. It may block as long as
	// it must. After a Transient error the subscription connects again at the
	// cursor; any other error ends Run.
	Handle func(ctx context.Context, msg []byte) error
	// Oversize, if set, takes the beginning of a message over MaxFrame, of which
	// the rest is read and thrown away; its errors are as those of Handle.
	// Without it, and for a message of more than 16 times MaxFrame, the connection
	// ends, and the message comes again at the cursor.
	Oversize func(ctx context.Context, beginning []byte) error
	// Idle, if set, is a hint that the socket has nothing more at the moment: who
	// collects a batch need not wait for more. It is called between messages, on
	// the goroutine that calls Handle.
	Idle func()
	// State, if set, is told of each connection made and lost.
	State func(up bool)

	// DialTimeout bounds dial and handshake. Default 15s.
	DialTimeout time.Duration
	// PingEvery is how often a ping is sent. Default 30s.
	PingEvery time.Duration
	// ReadTimeout is how long nothing at all, not even a pong, may come. It must
	// be longer than PingEvery. Default three times that.
	ReadTimeout time.Duration
	// WriteTimeout bounds the sending of a ping. Default 10s.
	WriteTimeout time.Duration
	// DataIdle is how long no message may come: pings do not count. 0: for ever.
	DataIdle time.Duration
	// MaxFrame bounds one message, after decompression, in bytes. Default 5,000,000.
	MaxFrame int64
	// Compression offers permessage-deflate to the server.
	Compression bool
	// Backoff spaces failed connections. Default 500ms to 60s.
	Backoff fault.Backoff
	// UserAgent of the handshake. Default "sluice".
	UserAgent string

	Log *slog.Logger
	// Metrics are shared by the subscriptions of a process; nil works.
	Metrics *Metrics
}

func (c *Config) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.DialTimeout, 15*time.Second)
	def(&c.PingEvery, 30*time.Second)
	def(&c.ReadTimeout, 3*c.PingEvery)
	def(&c.WriteTimeout, 10*time.Second)
	def(&c.Backoff.Initial, 500*time.Millisecond)
	def(&c.Backoff.Max, 60*time.Second)
	if c.MaxFrame <= 0 {
		c.MaxFrame = 5_000_000
	}
	if c.UserAgent == "" {
		c.UserAgent = "sluice"
	}
	if c.Idle == nil {
		c.Idle = func() {}
	}
	if c.State == nil {
		c.State = func(bool) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
}

// Subscription is one stream of one server.
type Subscription struct {
	c    Config
	base *url.URL
	name string
}

// New checks the configuration. It connects to nothing.
func New(c Config) (*Subscription, error) {
	base, err := parseHost(c.Host)
	if err != nil {
		return nil, err
	}
	if c.Cursor == nil || c.Handle == nil || c.Method == "" {
		return nil, fault.Fatalf("subscribe to %s: method, cursor and handler must be given", base.Host)
	}
	c.defaults()
	if c.ReadTimeout <= c.PingEvery {
		return nil, fault.Fatalf("subscribe to %s: read timeout %s is not longer than the time between pings, %s", base.Host, c.ReadTimeout, c.PingEvery)
	}
	base.Path = strings.TrimRight(base.Path, "/") + "/xrpc/" + c.Method
	c.Log = c.Log.With("component", "firehose", "host", base.Host)
	return &Subscription{c: c, base: base, name: streamOf(c.Method)}, nil
}

// parseHost turns a setting into the URL of a WebSocket server.
func parseHost(setting string) (*url.URL, error) {
	s := strings.TrimSpace(setting)
	if !strings.Contains(s, "://") {
		s = "wss://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, fault.Fatalf("host %q: %w", setting, err)
	}
	switch u.Scheme {
	case "wss", "https":
		u.Scheme = "wss"
	case "ws", "http":
		u.Scheme = "ws"
	default:
		return nil, fault.Fatalf("host %q: scheme is none of wss, ws, https, http", setting)
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fault.Fatalf("host %q: not a host, maybe with a scheme and a port", setting)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// BareHost is the host, and port if there is one, of a setting: the name of a
// server in keys.
func BareHost(setting string) (string, error) {
	u, err := parseHost(setting)
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

// URL is where the subscription connects to with a cursor; ok false: without.
func (s *Subscription) URL(seq int64, ok bool) string {
	u := *s.base
	if ok {
		u.RawQuery = url.Values{"cursor": {strconv.FormatInt(seq, 10)}}.Encode()
	}
	return u.String()
}

// Run keeps the subscription open until ctx ends, which is no error, or until
// the handler or the cursor gives an error that is not to be retried.
func (s *Subscription) Run(ctx context.Context) error {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		got, err := s.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop is no error
		}
		if err.final {
			return fmt.Errorf("subscribe to %s: %w", s.base.Host, err)
		}
		if got > 0 {
			attempt = 1
		}
		s.c.Metrics.reconnects.WithLabelValues(s.name, string(err.reason)).Inc()
		wait := s.c.Backoff.Delay(attempt)
		s.c.Log.WarnContext(ctx, "stream ended, connecting again",
			"reason", string(err.reason), "messages", got, "attempt", attempt, "wait", wait.String(), slog.Any("err", err.err))
		if fault.Sleep(ctx, wait) != nil {
			return nil //nolint:nilerr // a stop is no error
		}
	}
	return nil
}

// endReason says why a session ended. It is a metric label.
type endReason string

const (
	endCursor  endReason = "cursor"  // the cursor could not be had
	endDial    endReason = "dial"    // no connection
	endClosed  endReason = "closed"  // the server closed it
	endRead    endReason = "read"    // the connection broke or went silent
	endIdle    endReason = "idle"    // no message for too long
	endTooBig  endReason = "too_big" // a message over the limit
	endHandler endReason = "handler" // the handler wants it again from the cursor
)

func endReasons() []endReason {
	return []endReason{endCursor, endDial, endClosed, endRead, endIdle, endTooBig, endHandler}
}

// sessionError ends a session; final ends Run too.
type sessionError struct {
	reason endReason
	final  bool
	err    error
}

func (e *sessionError) Error() string { return string(e.reason) + ": " + e.err.Error() }
func (e *sessionError) Unwrap() error { return e.err }

func ended(reason endReason, err error) *sessionError { return &sessionError{reason: reason, err: err} }

var errTooBig = errors.New("message is too big")

func streamOf(method string) string {
	switch method {
	case SubscribeRepos:
		return "repos"
	case SubscribeLabels:
		return "labels"
	}
	return "other"
}
