package redstream_test

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// failure is what the proxy does to the request that it is armed for.
type failure uint8

const (
	notStored failure = iota // the request never arrives
	stored                   // it is done, the answer is lost, the connection breaks
	hang                     // it is done, no answer comes any more, the connection stays
)

// proxy stands between a client and a real Redis.
type proxy struct {
	l        net.Listener
	upstream string
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	plan  *plan
}

// plan breaks requests that contain all words, `times` of them.
type plan struct {
	words []string
	kind  failure
	times atomic.Int64
	fired atomic.Int64
}

func newProxy(t *testing.T, redisURL string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, upstream: strings.TrimPrefix(redisURL, "redis://"), conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.l.Addr().String() + "?write_timeout=300ms" }

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		upstream := p.upstream
		p.mu.Unlock()
		s, err := net.Dial("tcp", upstream)
		if err != nil {
			_ = c.Close()
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[s] = true, true
		p.mu.Unlock()
		link := &link{p: p, client: c, server: s}
		p.wg.Go(link.requests)
		p.wg.Go(link.replies)
	}
}

// arm breaks the next `times` requests that contain all words.
func (p *proxy) arm(kind failure, times int, words ...string) *plan {
	pl := &plan{words: words, kind: kind}
	pl.times.Store(int64(times))
	p.mu.Lock()
	p.plan = pl
	p.mu.Unlock()
	return pl
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) match(request []byte) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan == nil {
		return nil
	}
	for _, w := range p.plan.words {
		if !bytes.Contains(request, []byte(w)) {
			return nil
		}
	}
	if p.plan.times.Add(-1) < 0 {
		return nil
	}
	p.plan.fired.Add(1)
	return p.plan
}

type link struct {
	p              *proxy
	client, server net.Conn
	swallow        atomic.Bool // drop replies
	breaks         atomic.Bool // and break the connection after the first
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
	l.p.mu.Lock()
	delete(l.p.conns, l.client)
	delete(l.p.conns, l.server)
	l.p.mu.Unlock()
}

func (l *link) requests() {
	defer l.close()
	buf := make([]byte, 1<<20)
	for {
		n, err := l.client.Read(buf)
		if err != nil {
			return
		}
		if pl := l.p.match(buf[:n]); pl != nil {
			if pl.kind == notStored {
				return
			}
			l.breaks.Store(pl.kind == stored)
			l.swallow.Store(true)
		}
		if _, err := l.server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (l *link) replies() {
	defer l.close()
	buf := make([]byte, 1<<20)
	for {
		n, err := l.server.Read(buf)
		if err != nil {
			return
		}
		if l.swallow.Load() {
			if l.breaks.Load() {
				return
			}
			continue
		}
		if _, err := l.client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// turnTo sends new connections to another server and cuts the old ones.
func (p *proxy) turnTo(redisURL string) {
	p.mu.Lock()
	p.upstream = strings.TrimPrefix(redisURL, "redis://")
	p.mu.Unlock()
	p.cut()
}
