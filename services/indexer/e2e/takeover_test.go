package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/testkit"
)

// An indexer takes over streams that an earlier system has left: its groups,
// its consumers with entries pending for good, phantoms of entries that were
// removed under a reader, and its forms of entries.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	s := newSuite(t)
	raw, err := testkit.RedisClient(s.redisURL)
	require.NoError(t, err)
	t.Cleanup(raw.Close)
	do := func(args ...string) {
		t.Helper()
		require.NoError(t, raw.Do(t.Context(), raw.B().Arbitrary(args...).Build()).Error(), args)
	}
	add := func(stream, field, value string) string {
		t.Helper()
		id, err := raw.Do(t.Context(), raw.B().Arbitrary("XADD", s.prefix+stream, "*", field, value).Build()).ToString()
		require.NoError(t, err)
		s.last[stream] = id
		return id
	}
	const (
		live, backfill, labels = "firehose_live", "firehose_backfill", "label_live"
		cid                    = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"
	)
	like := func(seq, n int) string {
		return fmt.Sprintf(`{"type":"create","seq":%d,"time":"2025-10-31T18:00:00.123456Z","did":"did:plc:%024d","commit":%q,"rev":%q,"collection":"app.bsky.feed.like","rkey":%q,"cid":%q,`+
			`"record":{"$type":"app.bsky.feed.like","subject":{"uri":"at://did:plc:%024d/app.bsky.feed.post/%d","cid":%q},"createdAt":"2025-10-31T17:59:59.000Z"}}`,
			seq, n%7, cid, tid(n), tid(n), cid, 999, n, cid)
	}
	var ids []string
	for n := range 60 {
		ids = append(ids, add(live, "event", like(n+1, n)))
	}
	add(live, "event", fmt.Sprintf(`{"type":"account","seq":61,"time":"2025-10-31T18:00:01Z","did":"did:plc:%024d","active":false,"status":"Takendown"}`, 5))
	add(live, "event", fmt.Sprintf(`{"type":"identity","seq":62,"time":"2025-10-31T18:00:01Z","did":"did:plc:%024d"}`, 6))
	for n := 60; n < 90; n++ {
		add(backfill, "event", like(-2, n))
	}
	add(backfill, "event", fmt.Sprintf(`{"type":"repo","time":"2025-10-31T18:00:01Z","did":"did:plc:%024d","commit":%q,"rev":%q}`, 1, cid, tid(90)))
	add(labels, "labels", fmt.Sprintf(`{"seq":1,"labels":[{"ver":1,"src":"did:plc:labeler","uri":"did:plc:%024d","val":"spam","neg":false,"cts":"2025-10-31 18:00:00 UTC"}]}`, 1))

	for stream, group := range map[string]string{live: "firehose_group", backfill: "firehose_group", labels: "label_group"} {
		do("XGROUP", "CREATE", s.prefix+stream, group, "0")
	}
	// Two readers died: one with entries that are still there, one whose entries
	// were partly removed under it.
	do("XREADGROUP", "GROUP", "firehose_group", "rust-1", "COUNT", "20", "STREAMS", s.prefix+live, ">")
	do("XREADGROUP", "GROUP", "firehose_group", "rust-2", "COUNT", "10", "STREAMS", s.prefix+live, ">")
	do("XREADGROUP", "GROUP", "firehose_group", "rust-1", "COUNT", "5", "STREAMS", s.prefix+backfill, ">")
	do("XACK", s.prefix+live, "firehose_group", ids[0], ids[1])
	do("XDEL", s.prefix+live, ids[20], ids[21], ids[22])

	cfg := s.config("one")
	cfg.ClaimIdle = time.Second
	in := s.start(cfg)
	s.wait(in)
	for _, stream := range []string{live, backfill, labels} {
		require.Eventually(t, func() bool {
			st, err := s.client.Stats(t.Context(), stream)
			return err == nil && st.Length == 0 && len(st.Groups) == 1 && st.Groups[0].Pending == 0 && st.Groups[0].Lag == 0
		}, time.Minute, 20*time.Millisecond, stream)
		letters, err := s.client.Len(t.Context(), stream+"_dlq")
		require.NoError(t, err)
		require.Zero(t, letters, stream)
	}
	rows := s.rows("like", "actor", "label")
	require.Len(t, rows["like"], 90-2-3, "all but what the readers before had finished or lost")
	require.Len(t, rows["label"], 1)
	require.Equal(t, "2025-10-31T18:00:00.000Z", rows["label"][0]["cts"])
	taken := 0
	for _, a := range rows["actor"] {
		if a["upstreamStatus"] == "takendown" {
			taken++
		}
	}
	require.Equal(t, 1, taken)
}
