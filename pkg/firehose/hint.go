package firehose

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// hintAfter is how long a read may wait before the socket counts as empty.
const hintAfter = time.Millisecond

// hintConn tells when a read finds nothing and has to wait. It sits below TLS
// and the WebSocket, which do not notice: their deadlines are kept.
type hintConn struct {
	net.Conn
	// idle is owned by the goroutine that reads.
	idle func()

	mu       sync.Mutex
	deadline time.Time
}

// wait sets what is called before a read waits. It must be called by the
// goroutine that reads.
func (c *hintConn) wait(idle func()) { c.idle = idle }

// Read implements net.Conn.
func (c *hintConn) Read(p []byte) (int, error) {
	if c.idle == nil {
		return c.Conn.Read(p)
	}
	if first := time.Now().Add(hintAfter); c.shorten(first) {
		n, err := c.Conn.Read(p)
		c.restore()
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		c.idle()
	}
	return c.Conn.Read(p)
}

// shorten makes the deadline an earlier one, if it is.
func (c *hintConn) shorten(to time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() && c.deadline.Before(to) {
		return false
	}
	return c.Conn.SetReadDeadline(to) == nil
}

func (c *hintConn) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.Conn.SetReadDeadline(c.deadline)
}

// SetReadDeadline implements net.Conn.
func (c *hintConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *hintConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
