package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/services/indexer/internal/store"
)

// However many accounts a backfill has to look up, a changed identity and an
// account that is seen on the live stream do not wait for them.
func TestLiveHandlesFirst(t *testing.T) {
	t.Parallel()
	st, _, _ := newStore(t, func(c *store.Config) { c.QueueHandles = true })
	apply := func(live bool, events ...*event.Event) {
		batch := make([]store.Change, len(events))
		for i, e := range events {
			batch[i] = store.Change{Event: e, Live: live}
		}
		_, err := st.Apply(t.Context(), batch)
		require.NoError(t, err)
	}
	repo := func(did string, seq int64, at string) *event.Event {
		return &event.Event{Type: event.Repo, Seq: seq, Time: at, DID: did, Rev: "3kaaaaaaaaa2a", Commit: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"}
	}
	var old []*event.Event
	for i := range 50 {
		old = append(old, repo(fmt.Sprintf("did:plc:%024d", i), event.SeqBackfill, "2026-01-01T00:00:00.000Z"))
	}
	apply(false, old...)
	apply(true, repo("did:plc:live", 1, "2026-01-02T00:00:00.000Z"),
		&event.Event{Type: event.Identity, Seq: 2, Time: "2026-01-02T00:00:01.000Z", DID: "did:plc:changed"},
		// This one waits for the backfill's look-up already.
		&event.Event{Type: event.Identity, Seq: 3, Time: "2026-01-02T00:00:02.000Z", DID: old[7].DID})

	take := func(n int) (dids []string) {
		checks, err := st.TakeHandleChecks(t.Context(), n, time.Minute)
		require.NoError(t, err)
		for _, c := range checks {
			dids = append(dids, c.DID)
			if c.DID != old[7].DID {
				require.NoError(t, st.HandleChecked(t.Context(), c))
			}
		}
		return dids
	}
	first := take(5)
	require.Len(t, first, 5)
	require.ElementsMatch(t, []string{"did:plc:changed", old[7].DID}, first[:2])
	require.Equal(t, "did:plc:live", first[2])
	require.NotContains(t, first[3:], old[7].DID, "two look-ups of one account at once")
	seen := map[string]bool{}
	for _, did := range take(100) {
		require.False(t, seen[did], did)
		seen[did] = true
	}
	require.Len(t, seen, 47)
	require.NotContains(t, seen, old[7].DID)
}
