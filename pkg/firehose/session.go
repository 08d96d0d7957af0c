package firehose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sync/errgroup"

	"sluice/pkg/fault"
)

// session is one connection, from the cursor to its end. It returns how many
// messages the handler took.
func (s *Subscription) session(ctx context.Context) (int, *sessionError) {
	seq, ok, err := s.c.Cursor(ctx)
	if err != nil {
		return 0, &sessionError{reason: endCursor, final: fault.ClassOf(err) != fault.Transient, err: err}
	}
	conn, hint, err := s.dial(ctx, s.URL(seq, ok))
	if err != nil {
		return 0, ended(endDial, err)
	}
	s.c.Log.InfoContext(ctx, "connected", "cursor", seq, "with_cursor", ok)
	s.c.Metrics.connections.WithLabelValues(s.name).Inc()
	s.c.State(true)
	defer func() {
		s.c.Metrics.connections.WithLabelValues(s.name).Dec()
		s.c.State(false)
	}()

	// The pinger closes the connection when ctx or the session ends, which ends
	// a read that waits.
	pinging, stop := context.WithCancel(ctx)
	var pinger errgroup.Group
	pinger.Go(func() error {
		s.ping(pinging, conn)
		return nil
	})
	defer func() {
		stop()
		_ = pinger.Wait()
	}()
	r := &reader{s: s, conn: conn, hint: hint}
	return r.run(ctx)
}

func (s *Subscription) dial(ctx context.Context, address string) (*websocket.Conn, *hintConn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.c.DialTimeout)
	defer cancel()
	var hint *hintConn
	dialer := websocket.Dialer{
		HandshakeTimeout:  s.c.DialTimeout,
		ReadBufferSize:    64 << 10,
		WriteBufferSize:   1 << 10,
		EnableCompression: s.c.Compression,
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			hint = &hintConn{Conn: c}
			return hint, nil
		},
	}
	conn, resp, err := dialer.DialContext(ctx, address, http.Header{"User-Agent": {s.c.UserAgent}})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		if resp != nil {
			return nil, nil, fmt.Errorf("dial: status %d: %w", resp.StatusCode, err)
		}
		return nil, nil, fmt.Errorf("dial: %w", err)
	}
	return conn, hint, nil
}

// ping pings until ctx ends, then says goodbye and closes the connection. A
// ping that cannot be sent closes it too.
func (s *Subscription) ping(ctx context.Context, conn *websocket.Conn) {
	defer conn.Close()
	tick := time.NewTicker(s.c.PingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
			_ = conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second))
			return
		case <-tick.C:
			if conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(s.c.WriteTimeout)) != nil {
				return
			}
		}
	}
}

// reader takes the messages of one connection. One goroutine uses it.
type reader struct {
	s    *Subscription
	conn *websocket.Conn
	hint *hintConn
	buf  bytes.Buffer
	// quietAt is when the connection counts as quiet; zero if it never does.
	quietAt time.Time
	taken   int
}

func (r *reader) run(ctx context.Context) (int, *sessionError) {
	r.conn.SetPongHandler(func(string) error { return r.extend() })
	answer := r.conn.PingHandler()
	r.conn.SetPingHandler(func(data string) error { return errors.Join(answer(data), r.extend()) })
	// What counts is the size after decompression, which next bounds; this bounds
	// what comes over the wire.
	r.conn.SetReadLimit(r.s.c.MaxFrame)
	if r.s.c.Oversize != nil {
		r.conn.SetReadLimit((1 + discardable) * r.s.c.MaxFrame)
	}
	hinted := 0
	if r.hint != nil {
		r.hint.wait(func() {
			if r.taken > hinted {
				hinted = r.taken
				r.s.c.Idle()
			}
		})
	}
	for {
		msg, whole, end := r.next()
		if end != nil {
			return r.taken, end
		}
		if ctx.Err() != nil {
			return r.taken, ended(endRead, ctx.Err())
		}
		r.s.c.Metrics.messages.WithLabelValues(r.s.name).Inc()
		r.s.c.Metrics.received.WithLabelValues(r.s.name).Add(float64(len(msg)))
		handle := r.s.c.Handle
		if !whole {
			handle = r.s.c.Oversize
		}
		if err := handle(ctx, msg); err != nil {
			return r.taken, &sessionError{reason: endHandler, final: fault.ClassOf(err) != fault.Transient, err: err}
		}
		r.taken++
	}
}

// extend moves the read deadline on; it never passes the time at which the
// connection counts as quiet.
func (r *reader) extend() error {
	deadline := time.Now().Add(r.s.c.ReadTimeout)
	if !r.quietAt.IsZero() && r.quietAt.Before(deadline) {
		deadline = r.quietAt
	}
	return r.conn.SetReadDeadline(deadline)
}

// next waits for a message. The clocks start here: time that the handler took
// is not the server's.
func (r *reader) next() (msg []byte, whole bool, end *sessionError) {
	if r.s.c.DataIdle > 0 {
		r.quietAt = time.Now().Add(r.s.c.DataIdle)
	}
	if err := r.extend(); err != nil {
		return nil, false, ended(endRead, err)
	}
	_, body, err := r.conn.NextReader()
	if err != nil {
		return nil, false, r.readError(err)
	}
	r.quietAt = time.Time{}
	if err := r.extend(); err != nil {
		return nil, false, ended(endRead, err)
	}
	r.buf.Reset()
	n, err := r.buf.ReadFrom(io.LimitReader(body, r.s.c.MaxFrame+1))
	if err != nil {
		return nil, false, r.readError(err)
	}
	if n > r.s.c.MaxFrame {
		msg, end := r.discard(body)
		return msg, false, end
	}
	return bytes.Clone(r.buf.Bytes()), true, nil
}

const (
	// discardable is how many times MaxFrame of a message are thrown away.
	discardable = 16
	// beginning is how much of a message over the limit is kept, in bytes.
	beginning = 64 << 10
)

// discard throws the rest of a message away and returns its beginning.
func (r *reader) discard(body io.Reader) ([]byte, *sessionError) {
	if r.s.c.Oversize == nil {
		return nil, ended(endTooBig, errTooBig)
	}
	limit := discardable * r.s.c.MaxFrame
	n, err := io.Copy(io.Discard, io.LimitReader(body, limit))
	if err != nil {
		return nil, r.readError(err)
	}
	if n >= limit {
		return nil, ended(endTooBig, errTooBig)
	}
	return bytes.Clone(r.buf.Bytes()[:min(r.buf.Len(), beginning)]), nil
}

func (r *reader) readError(err error) *sessionError {
	var closed *websocket.CloseError
	switch {
	case errors.Is(err, websocket.ErrReadLimit):
		return ended(endTooBig, errTooBig)
	case errors.As(err, &closed):
		return ended(endClosed, err)
	case timedOut(err) && !r.quietAt.IsZero() && !time.Now().Before(r.quietAt):
		return ended(endIdle, fmt.Errorf("no message for %s", r.s.c.DataIdle))
	}
	return ended(endRead, err)
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
