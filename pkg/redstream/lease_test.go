package redstream_test

import (
	"testing"
	"time"

	"sluice/pkg/redstream"
)

// TestHeartbeatWithFullMemory: whoever is at work does not look dead because
// Redis refuses to store anything.
func TestHeartbeatWithFullMemory(t *testing.T) {
	t.Parallel()
	b, _ := own(t)
	s := newSeen()
	b.fill("s", 0, 1)
	b.must("CONFIG", "SET", "maxmemory", "1")
	join(t, b.Client, redstream.ConsumerConfig{Streams: []string{"s"}}, acking(s))
	alive := func() bool {
		st, err := b.Stats(t.Context(), "s")
		return err == nil && len(st.Groups) == 1 && len(st.Groups[0].Consumers) == 1 && st.Groups[0].Consumers[0].Alive
	}
	b.must("CONFIG", "SET", "maxmemory", "0")
	eventually(t, "handled", 5*time.Second, func() bool { return s.distinct() == 1 })
	eventually(t, "alive", 5*time.Second, alive)
	b.must("CONFIG", "SET", "maxmemory", "1")
	b.must("DEL", b.key("s:hb:g:c1"))
	eventually(t, "alive with full memory", 8*time.Second, alive)
}
