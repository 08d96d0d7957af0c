// Package simnet serves a world: a directory, personal data servers, relays and
// a labeler, as the real ones answer, with faults that can be switched on and
// are counted.
package simnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/pkg/testkit/world"
)

// Options of a network.
type Options struct {
	World world.Options
	// Faults is a list for Faults.Apply; empty: none.
	Faults string
	// Relays is how many relays serve the world, each with faults and sequence
	// numbers of its own. Default 1.
	Relays int
	// Rate of each subscription in frames a second; 0 is as fast as the reader
	// takes them.
	Rate float64
	// Host is the address to listen at. Default 127.0.0.1.
	Host string
	// Name is the host name that documents and lists tell others. Default Host.
	Name string
	// BasePort is the first of the ports: PLC, then the labeler, then relays
	// from BasePort+10 and servers from BasePort+20. 0: any free ports.
	BasePort int
	// Role limits what this process serves to plc, pds, relay or labeler; it
	// needs BasePort. Default all.
	Role string
	// SlowPause is the pause between pieces of what is sent slowly. Default
	// 20 ms. StallTime is how long a stalled stream is silent. Default 2 s.
	SlowPause, StallTime time.Duration
	// SlowConsumer is how long a reader may leave a relay's frames unread before
	// the relay ends its connection; that counts as the fault slow_consumer.
	// Default 30 s.
	SlowConsumer time.Duration
	// RetryAfter is what a 429 asks for. Default 1 s.
	RetryAfter time.Duration
	// HostileRecords is the number of records in a repository of the hostile
	// kinds tiny_records and giant. Default 200,000.
	HostileRecords int
	// Log receives what goes wrong in the network itself. Default: discarded.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.SlowPause, 20*time.Millisecond)
	def(&o.StallTime, 2*time.Second)
	def(&o.RetryAfter, time.Second)
	if o.Relays == 0 {
		o.Relays = 1
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Name == "" {
		o.Name = o.Host
	}
	if o.Role == "" {
		o.Role = "all"
	}
	if o.HostileRecords == 0 {
		o.HostileRecords = 200_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Network is a world that is being served.
type Network struct {
	World  *world.World
	Faults *Faults
	// PLCURL is the directory, HandleResolverURL a service with
	// com.atproto.identity.resolveHandle. Both are http URLs.
	PLCURL, HandleResolverURL string
	// RelayHost is the first of RelayHosts. They and LabelerHost are as the
	// ingester's settings take them: ws://host:port.
	RelayHost   string
	RelayHosts  []string
	LabelerHost string
	// PDSURLs are the servers, by the index that accounts name.
	PDSURLs []string

	opts         Options
	rate         float64
	log          *slog.Logger
	relays       []*relay
	labelsServed atomic.Int64
	living       atomic.Int32 // runs of Live
	servers      []*http.Server
	group        errgroup.Group
	owned        sync.WaitGroup // subscriptions and their readers
	done         chan struct{}
	closing      sync.Once
	gate         sync.Mutex // guards closed and the first Add to owned
	closed       bool
}

// enter counts a subscription in, unless the network is closing. The caller
// owes an owned.Done.
func (n *Network) enter() bool {
	n.gate.Lock()
	defer n.gate.Unlock()
	if n.closed {
		return false
	}
	n.owned.Add(1)
	return true
}

// Start serves a world until the test ends.
func Start(tb testing.TB, o Options) *Network {
	tb.Helper()
	n, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(n.Close)
	return n
}

// New makes the world and serves it until Close.
func New(o Options) (*Network, error) {
	o = o.withDefaults()
	if o.Role != "all" && o.BasePort == 0 {
		return nil, errors.New("role " + o.Role + " needs a base port: every process must know the addresses of the others")
	}
	faults := newFaults()
	if err := faults.Apply(o.Faults); err != nil {
		return nil, err
	}
	w, err := world.Generate(o.World)
	if err != nil {
		return nil, fmt.Errorf("make world: %w", err)
	}
	n := &Network{World: w, Faults: faults, opts: o, rate: o.Rate, log: o.Log, done: make(chan struct{})}
	if err := n.listen(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// listen opens every server, the addresses first: documents name them.
func (n *Network) listen() error {
	type door struct {
		listener net.Listener
		mux      *http.ServeMux
	}
	var doors []door
	open := func(role string, port int, mux *http.ServeMux) (string, error) {
		if n.opts.BasePort == 0 {
			port = 0
		} else {
			port += n.opts.BasePort
		}
		if n.opts.Role != "all" && n.opts.Role != role {
			return fmt.Sprintf("%s:%d", n.opts.Name, port), nil
		}
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("%s:%d", n.opts.Host, port))
		if err != nil {
			return "", fmt.Errorf("listen for %s: %w", role, err)
		}
		doors = append(doors, door{l, mux})
		_, at, err := net.SplitHostPort(l.Addr().String())
		return net.JoinHostPort(n.opts.Name, at), err
	}
	plc, err := open("plc", 0, n.plcMux())
	if err != nil {
		return err
	}
	n.PLCURL, n.HandleResolverURL = "http://"+plc, "http://"+plc
	labeler, err := open("labeler", 1, n.labelerMux())
	if err != nil {
		return err
	}
	n.LabelerHost = "ws://" + labeler
	for i := range n.opts.Relays {
		r := newRelay(n, i)
		n.relays = append(n.relays, r)
		addr, err := open("relay", 10+i, n.relayMux(r))
		if err != nil {
			return err
		}
		n.RelayHosts = append(n.RelayHosts, "ws://"+addr)
	}
	n.RelayHost = n.RelayHosts[0]
	for i := range n.World.Options.PDS {
		addr, err := open("pds", 20+i, n.pdsMux(i))
		if err != nil {
			return err
		}
		n.PDSURLs = append(n.PDSURLs, "http://"+addr)
	}
	for _, d := range doors {
		s := &http.Server{Handler: d.mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
		n.servers = append(n.servers, s)
		n.group.Go(func() error {
			if err := s.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

// Close ends all connections and waits for all goroutines.
func (n *Network) Close() {
	n.closing.Do(func() {
		n.gate.Lock()
		n.closed = true
		n.gate.Unlock()
		close(n.done)
		for _, s := range n.servers {
			_ = s.Close()
		}
		if err := n.group.Wait(); err != nil {
			n.log.Error("server ended", "err", err)
		}
		n.owned.Wait()
	})
}

// Truth is what is true now.
func (n *Network) Truth() *world.Truth { return n.World.Truth() }

// Env returns the settings of the services for this network.
func (n *Network) Env() map[string]string {
	var relays strings.Builder
	for i, r := range n.RelayHosts {
		if i > 0 {
			relays.WriteString(",")
		}
		relays.WriteString(r)
	}
	return map[string]string{
		"PLC_URL": n.PLCURL, "INGESTER_RELAY_HOSTS": relays.String(), "INGESTER_LABELER_HOSTS": n.LabelerHost,
		"HANDLE_RESOLVER_URL": n.HandleResolverURL, "ALLOW_PRIVATE_NETWORK": n.private(),
	}
}

// private are the prefixes that the network's addresses are in.
func (n *Network) private() string {
	if ip := net.ParseIP(n.opts.Name); ip != nil && ip.IsLoopback() {
		return "127.0.0.0/8"
	}
	return "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
}

// Live lets things go on for a time, at about rate events a second, and
// returns when ctx or the time ends.
func (n *Network) Live(ctx context.Context, rate float64, length time.Duration) error {
	n.living.Add(1)
	defer n.living.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	const beat = 50 * time.Millisecond
	tick := time.NewTicker(beat)
	defer tick.Stop()
	due := 0.0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.done:
			return nil
		case <-tick.C:
		}
		due += rate * beat.Seconds()
		if steps := int(due); steps > 0 {
			due -= float64(steps)
			if err := n.World.Step(steps, time.Now); err != nil {
				return err
			}
		}
	}
}

// Status is what GET /_sim/status answers.
type Status struct {
	Frames   int            `json:"frames"`
	FirstSeq int64          `json:"first_seq"`
	LastSeq  int64          `json:"last_seq"`
	Served   []int64        `json:"served"` // by relay
	Labels   int64          `json:"labels"`
	LabelsUp int64          `json:"labels_served"`
	Done     bool           `json:"done"` // nothing more will happen
	Faults   map[string]int `json:"faults"`
	Pending  []string       `json:"faults_pending"`
	Stats    map[string]int `json:"stats"`
}

// Status tells how far things are.
func (n *Network) Status() Status {
	first, last := n.World.Seqs()
	s := Status{
		Frames: n.World.Len(), FirstSeq: first, LastSeq: last, Labels: n.World.LastLabel(),
		LabelsUp: n.labelsServed.Load(), Done: n.living.Load() == 0, Faults: n.Faults.Counts(),
		Pending: n.Faults.Pending(), Stats: n.World.Stats(),
	}
	for _, r := range n.relays {
		s.Served = append(s.Served, r.served.Load())
	}
	return s
}
