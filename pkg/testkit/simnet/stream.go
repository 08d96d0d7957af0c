package simnet

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sluice/pkg/testkit/repo"
	"sluice/pkg/testkit/world"

	comatproto "github.com/bluesky-social/indigo/api/atproto"
)

// hugeFrame is more than the protocol lets a frame be.
const hugeFrame = 8 << 20

// relay is one relay's view of the world: the same frames, its own faults.
type relay struct {
	net    *Network
	served atomic.Int64
	// offset is added to the world's sequence numbers.
	offset int64
	// mine limits the stream to the accounts of a server; nil: all.
	mine func(*world.Account) bool

	mu      sync.Mutex
	verdict map[int64]string // what has become of a frame, by seq, for good
}

func newRelay(n *Network, index int) *relay {
	return &relay{net: n, offset: int64(index) * seqStep, verdict: map[int64]string{}}
}

func (r *relay) subscribe(w http.ResponseWriter, req *http.Request) {
	cursor, given, err := cursorOf(req)
	if err != nil {
		xrpcError(w, http.StatusBadRequest, "InvalidRequest", "cursor is not a number")
		return
	}
	if !r.net.enter() {
		return
	}
	defer r.net.owned.Done()
	s, err := accept(w, req, &r.net.owned, r.net.done)
	if err != nil {
		return
	}
	defer s.cut()
	if limit := r.net.opts.SlowConsumer; limit > 0 {
		s.patience = limit
	}
	first, last := r.net.World.Seqs()
	index := r.net.World.Len()
	if given {
		if cursor != 0 {
			cursor -= r.offset
		}
		if cursor > last {
			_ = s.send(opBinary, repo.ErrorFrame("FutureCursor", "Cursor in the future."))
			s.bye()
			return
		}
		if cursor != 0 && cursor < first-1 {
			r.info(s)
		}
		index = r.net.World.After(cursor)
	}
	r.stream(s, index)
	if s.tooSlow() {
		r.net.Faults.count("slow_consumer")
	}
}

func cursorOf(req *http.Request) (cursor int64, given bool, err error) {
	text := req.URL.Query().Get("cursor")
	if text == "" {
		return 0, false, nil
	}
	cursor, err = strconv.ParseInt(text, 10, 64)
	return cursor, true, err
}

func (r *relay) info(s *socket) {
	message := "Requested cursor exceeded limit. Possibly missing events"
	data, err := repo.Frame("#info", &comatproto.SyncSubscribeRepos_Info{Name: "OutdatedCursor", Message: &message})
	if err == nil {
		_ = s.send(opBinary, data)
		r.net.Faults.count("outdated_cursor")
	}
}

// stream sends frames from index on until the connection or the network ends.
func (r *relay) stream(s *socket, index int) {
	pace := newPacer(r.net.rate)
	for {
		frames, more := r.net.World.Frames(index, 256)
		if len(frames) == 0 {
			if s.flush() != nil {
				return
			}
			select {
			case <-more:
			case <-s.closed:
				return
			case <-r.net.done:
				return
			}
			continue
		}
		index += len(frames)
		if !r.sendAll(s, frames, pace) {
			return
		}
	}
}

func (r *relay) sendAll(s *socket, frames []world.Frame, pace *pacer) bool {
	troubled := r.net.Faults.armed(StreamFaults())
	for i := 0; i < len(frames); i++ {
		if !pace.wait(s) {
			return false
		}
		f := &frames[i]
		if r.mine != nil && !r.mine(f.Account) {
			continue
		}
		if troubled || r.spoiled() {
			if i+1 < len(frames) && r.late(f, &frames[i+1]) {
				if !r.plain(s, &frames[i+1]) || !r.plain(s, f) {
					return false
				}
				i++
				continue
			}
			if !r.sendTroubled(s, f) {
				return false
			}
			continue
		}
		if !r.plain(s, f) {
			return false
		}
	}
	return true
}

// plain sends a frame as it is.
func (r *relay) plain(s *socket, f *world.Frame) bool {
	r.served.Add(1)
	return s.send(opBinary, reseq(f.Data, f.Seq, r.offset)) == nil
}

func (r *relay) spoiled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.verdict) > 0
}

// late decides whether f goes after its successor.
func (r *relay) late(f, next *world.Frame) bool {
	return r.expendable(f) && next.Account != f.Account &&
		r.judged(f.Seq) == "" && r.judged(next.Seq) == "" && r.net.Faults.fire(FaultReorder, "")
}

func (r *relay) judged(seq int64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.verdict[seq]
}

// expendable says whether the truth can be found without this frame: a later
// commit shows that it is missing, and the repository can be fetched.
func (r *relay) expendable(f *world.Frame) bool {
	if r.mine != nil || f.Kind != world.Commit || !f.More {
		return false
	}
	s := r.net.World.State(f.Account)
	return s.Active() && (!s.Born || r.net.living.Load() == 0)
}

// fate decides once what becomes of a frame.
func (r *relay) fate(f *world.Frame) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, decided := r.verdict[f.Seq]; decided {
		return v
	}
	if !r.expendable(f) {
		return ""
	}
	for _, name := range damaging() {
		if name == FaultReorder || name == FaultGap && !f.Known {
			continue
		}
		if r.net.Faults.fire(name, "") {
			r.verdict[f.Seq] = name
			return name
		}
	}
	return ""
}

// sendTroubled sends one frame with the faults that are due.
func (r *relay) sendTroubled(s *socket, f *world.Frame) bool {
	fs := r.net.Faults
	data := f.Data
	switch name := r.fate(f); name {
	case "":
	case FaultGap:
		return true
	default:
		spoiled, err := spoil(name, f)
		if err != nil {
			r.net.log.Error("frame not spoiled", "fault", name, "err", err)
		} else {
			data = spoiled
		}
	}
	data = reseq(data, f.Seq, r.offset)
	r.served.Add(1)
	if fs.fire(FaultSlow, "") {
		return s.drip(data, 20, r.net.opts.SlowPause) == nil
	}
	if s.send(opBinary, data) != nil {
		return false
	}
	if fs.fire(FaultDuplicate, "") && s.send(opBinary, data) != nil {
		return false
	}
	if fs.fire(FaultGarbage, "") && s.send(opBinary, []byte{0xff, 0x00, 0x9f, 0x13, 0x37}) != nil {
		return false
	}
	if fs.fire(FaultHugeFrame, "") && s.send(opBinary, make([]byte, hugeFrame)) != nil {
		return false
	}
	if fs.fire(FaultText, "") && s.send(opText, []byte("hello")) != nil {
		return false
	}
	return r.interrupt(s)
}

// interrupt ends or holds up the connection if that is due.
func (r *relay) interrupt(s *socket) bool {
	fs := r.net.Faults
	if fs.fire(FaultStall, "") {
		if s.flush() != nil || !s.wait(r.net.opts.StallTime) {
			return false
		}
	}
	if fs.fire(FaultErrorFrame, "") {
		_ = s.send(opBinary, repo.ErrorFrame("ConsumerTooSlow", "Stream consumer cannot keep up with producer."))
		s.bye()
		return false
	}
	if fs.fire(FaultDisconnect, "") {
		_ = s.flush()
		return false
	}
	return true
}

// pacer keeps a rate, without sleeping for less than a few milliseconds.
type pacer struct {
	rate  float64
	start time.Time
	sent  int
}

func newPacer(rate float64) *pacer { return &pacer{rate: rate, start: time.Now()} }

func (p *pacer) wait(s *socket) bool {
	if p.rate <= 0 {
		return true
	}
	due := p.start.Add(time.Duration(float64(p.sent) / p.rate * float64(time.Second)))
	p.sent++
	if ahead := time.Until(due); ahead > 3*time.Millisecond {
		return s.flush() == nil && s.wait(ahead)
	}
	return true
}
