package enumerate_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/ingester/internal/enumerate"
)

func TestGapIsFilledByRev(t *testing.T) {
	t.Parallel()
	old, recent := "3jzfcijpj2z2a", tidOf(time.Now())
	h := newHost(t, row(1, old), row(2, recent), row(3, recent), row(4, "junk"))
	r := newRig(t, h.URL)
	known := r.client.NewTable("firehose_live", ":state", 1000)
	require.NoError(t, known.Put(t.Context(), []string{fmt.Sprintf("did:plc:%024d", 3)}, []string{recent}))
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, known)
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now().Add(-time.Minute)))
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now()), "a later gap does not hide the earlier one")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 2 }, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	jobs := r.jobs(t)
	require.Equal(t, event.ReasonResync, jobs[0].Reason)
	require.Equal(t, []string{recent, "junk"}, []string{jobs[0].Rev, jobs[1].Rev})
}

// A gap that is noted while one is filled is filled after it, although it
// keeps the earlier time; then nothing is left to fill.
func TestGapNotedWhileOneIsFilled(t *testing.T) {
	t.Parallel()
	recent := tidOf(time.Now())
	h := newHost(t, row(1, recent))
	r := newRig(t, h.URL)
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, nil)
	since := time.Now().Add(-time.Minute)
	noted := make(chan error, 1)
	listed := 0
	h.refuse = func(_ http.ResponseWriter, _ string, _ int) bool {
		if listed++; listed == 1 {
			noted <- g.Note(context.Background(), h.name(), since.Add(time.Second))
			h.rows = append(h.rows, row(2, recent)) // not in the page being read
		}
		return false
	}
	require.NoError(t, g.Note(t.Context(), h.name(), since))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.NoError(t, <-noted)
	left := func() string {
		v, _, err := r.client.Cursor(t.Context(), stream+":gap:"+h.name())
		require.NoError(t, err)
		return v
	}
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 3 && left() == "" }, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

// What was seen does not count where it is in doubt.
func TestDoubtIsFetchedAlthoughItsRevIsKnown(t *testing.T) {
	t.Parallel()
	recent := tidOf(time.Now())
	h := newHost(t, row(1, recent), row(2, recent))
	r := newRig(t, h.URL)
	known := r.client.NewTable("firehose_live", ":state", 1000)
	require.NoError(t, known.Put(t.Context(), []string{fmt.Sprintf("did:plc:%024d", 1)}, []string{recent}))
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	g := enumerate.NewGaps(e, known)
	require.NoError(t, g.Doubt(t.Context(), h.name(), time.Now()))
	require.NoError(t, g.Note(t.Context(), h.name(), time.Now()), "the doubt stays")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	require.Eventually(t, func() bool { return len(r.jobs(t)) == 2 }, 60*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}

// What was noted of a relay that is followed no more is filled through another.
func TestGapMovesToAnotherRelay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	h := newHost(t, row(1, tidOf(now.Add(-time.Hour))), row(2, tidOf(now)))
	r := newRig(t, h.URL)
	e, err := enumerate.New(r.cfg, r.deps)
	require.NoError(t, err)
	gaps := enumerate.NewGaps(e, nil)
	ctx := t.Context()
	require.NoError(t, gaps.Move(ctx, "gone.example", h.name()), "nothing is noted")
	require.NoError(t, gaps.Note(ctx, "gone.example", now.Add(-time.Minute)))
	require.NoError(t, gaps.Move(ctx, "gone.example", h.name()))
	require.NoError(t, gaps.Move(ctx, "gone.example", h.name()), "a repeat is harmless")
	left, _, err := r.client.Cursor(ctx, stream+":gap:gone.example")
	require.NoError(t, err)
	require.Empty(t, left)
	moved, _, err := r.client.Cursor(ctx, stream+":gap:"+h.name())
	require.NoError(t, err)
	require.NotEmpty(t, moved)
}
