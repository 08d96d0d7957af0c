package redstream_test

import (
	"testing"

	"sluice/pkg/redstream"
)

// TestMonitorCountsNamedDeadLetters: dead letters may have a name of their own.
func TestMonitorCountsNamedDeadLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.fill("s", 0, 3)
	b.must("XADD", b.key("graveyard"), "*", "event", "1", "reason", "bad")
	m := b.NewMonitor(redstream.MonitorConfig{
		Streams: map[string][]string{"s": {"g"}}, DeadLetters: map[string]string{"s": "graveyard"},
	})
	if err := m.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := m.Stats("s").DeadLetters; n != 1 || b.metric("dead_letters", "s") != 1 {
		t.Fatalf("%d dead letters", n)
	}
	if st, err := b.Stats(t.Context(), "s"); err != nil || st.DeadLetters != 0 {
		t.Fatal(st.DeadLetters, err)
	}
}
