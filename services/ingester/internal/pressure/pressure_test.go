package pressure

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// A stream at its mark holds nothing while nobody wants to write to it.
func TestStreamHoldsWhileSomethingWaits(t *testing.T) {
	t.Parallel()
	m := New(nil, "jobs")
	s, now := m.Stream("jobs"), time.Now()
	active := func(at time.Time) float64 {
		m.observe(at, time.Second)
		return testutil.ToFloat64(m.active)
	}
	s.Gate(true)
	require.Zero(t, active(now))
	end := s.Begin()
	require.InDelta(t, 1, active(time.Now()), 0)
	s.Gate(false)
	require.Zero(t, active(time.Now()))
	require.InDelta(t, 1, active(time.Now().Add(2*stallAfter)), 0, "Redis does not take it")
	end()
	require.Zero(t, active(time.Now().Add(2*stallAfter)))
	require.InDelta(t, 2, testutil.ToFloat64(m.seconds.WithLabelValues("jobs")), 0)
}

func TestTimeThatGoesBackIsNoPanic(t *testing.T) {
	t.Parallel()
	m := New(nil, "s")
	m.Stream("s").Gate(true)
	defer m.Stream("s").Begin()()
	m.observe(time.Now(), time.Second)
	m.observe(time.Now(), -time.Second)
	require.InDelta(t, 1, testutil.ToFloat64(m.seconds), 0)
}
