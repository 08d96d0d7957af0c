package simnet

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPong   = 10

	writeTimeout = 30 * time.Second
)

// socket is the server's side of a websocket. It frames messages itself, many
// to a system call, since a stream is replayed as fast as it is read.
type socket struct {
	conn   *websocket.Conn
	net    net.Conn
	closed chan struct{} // closed when the peer has gone
	// patience is how long one write may wait for the peer.
	patience time.Duration

	mu  sync.Mutex
	buf *bufio.Writer
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

// accept upgrades a request. Its goroutines are owner's; the connection, and
// they with it, end at the latest when done is closed.
func accept(w http.ResponseWriter, r *http.Request, owner *sync.WaitGroup, done <-chan struct{}) (*socket, error) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	s := &socket{
		conn: conn, net: conn.NetConn(), closed: make(chan struct{}), patience: writeTimeout,
		buf: bufio.NewWriterSize(conn.NetConn(), 256<<10),
	}
	conn.SetPingHandler(func(data string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.write(opPong, []byte(data)); err != nil {
			return err
		}
		return s.buf.Flush()
	})
	owner.Go(func() {
		defer close(s.closed)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	})
	owner.Go(func() {
		select {
		case <-done:
			s.cut()
		case <-s.closed:
		}
	})
	return s, nil
}

// send buffers one message.
func (s *socket) send(op byte, message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.write(op, message)
}

func (s *socket) write(op byte, message []byte) error {
	_ = s.net.SetWriteDeadline(time.Now().Add(s.patience))
	_, err := s.buf.Write(frameHeader(op, len(message)))
	if err == nil {
		_, err = s.buf.Write(message)
	}
	return err
}

func frameHeader(op byte, size int) []byte {
	head := []byte{0x80 | op}
	switch {
	case size < 126:
		return append(head, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(head, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(head, 127), uint64(size))
}

func (s *socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Flush()
}

// tooSlow says whether the connection ended because the peer did not read.
func (s *socket) tooSlow() bool { return errors.Is(s.flush(), os.ErrDeadlineExceeded) }

// drip sends a message in pieces with a pause after each.
func (s *socket) drip(message []byte, pieces int, pause time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append(frameHeader(opBinary, len(message)), message...)
	size := max(1, len(all)/pieces)
	for len(all) > 0 {
		n := min(size, len(all))
		_ = s.net.SetWriteDeadline(time.Now().Add(s.patience))
		if _, err := s.buf.Write(all[:n]); err != nil {
			return err
		}
		if err := s.buf.Flush(); err != nil {
			return err
		}
		all = all[n:]
		if !s.wait(pause) {
			return net.ErrClosed
		}
	}
	return nil
}

// wait lets time pass; false if the peer went away.
func (s *socket) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closed:
		return false
	}
}

// bye ends the connection in order.
func (s *socket) bye() {
	_ = s.send(opClose, []byte{0x03, 0xe8})
	_ = s.flush()
	s.wait(100 * time.Millisecond)
	s.cut()
}

// cut ends the connection without a word.
func (s *socket) cut() { _ = s.net.Close() }
