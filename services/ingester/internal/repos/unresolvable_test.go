package repos

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/atproto"
	"sluice/pkg/event"
	"sluice/pkg/testkit/repo"
)

// deadHost is a KeySource in which did:web is never answered.
type deadHost struct {
	keys
	asked atomic.Int64
}

func (d *deadHost) Identity(ctx context.Context, did string) (atproto.Identity, error) {
	if strings.HasPrefix(did, "did:web:") {
		d.asked.Add(1)
		return atproto.Identity{}, errors.New("host does not answer")
	}
	return d.keys.Identity(ctx, did)
}

// A host that does not answer costs the patience once, not with each commit.
func TestDeadDocumentHostCostsThePatienceOnce(t *testing.T) {
	t.Parallel()
	ks := &deadHost{keys: keys{}}
	web, plc := newAuthor(t, nil, "w"), newAuthor(t, ks.keys, "a")
	web.did = "did:web:gone.example"
	web.repo = repo.New(web.did, web.key)
	r := newRig(t, ks)
	r.cfg.Identity.WebPatience = 300 * time.Millisecond
	frames := [][]byte{web.next(1), web.next(2)}
	for i := range 40 {
		frames = append(frames, web.next(int64(3+2*i)), plc.next(int64(4+2*i)))
	}
	r.relay(host, newSource(frames...))
	started := time.Now()
	r.start()
	r.until(host, "82")
	require.Less(t, time.Since(started), 5*time.Second)
	require.Len(t, r.uris(), 40)
	require.Equal(t, []string{web.did}, r.schedule.dids())
	require.InDelta(t, 42, r.metric("sluice_ingester_drops_total", string(event.ReasonNoIdentity)), 0)
}

func TestUnresolvableAreForgottenInTimeAndBounded(t *testing.T) {
	t.Parallel()
	u := newUnresolvable(4)
	now := time.Now()
	u.add("a", now.Add(time.Minute))
	require.True(t, u.has("a", now))
	require.False(t, u.has("b", now))
	require.False(t, u.has("a", now.Add(time.Hour)))
	u.add("b", now.Add(time.Minute))
	u.forget("b")
	require.False(t, u.has("b", now))
	for i := range 100 {
		u.add(itoa(i), now.Add(time.Minute))
		require.LessOrEqual(t, len(u.cur)+len(u.old), 4)
	}
	require.True(t, u.has("99", now))
}
