package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
	"sluice/pkg/fault"
	"sluice/pkg/testkit"
	"sluice/services/indexer/internal/derive"
	"sluice/services/indexer/internal/store"
)

// cutter breaks connections at their COMMIT: before it is sent, or after, so
// that the answer is lost.
type cutter struct {
	before, after atomic.Int64
	cut           atomic.Int64
}

type cutConn struct {
	net.Conn
	c *cutter
	// commits counts the writes with a COMMIT; the first one only describes it.
	commits int
}

var errCut = errors.New("connection cut by the test")

func (c *cutConn) Write(b []byte) (int, error) {
	if !bytes.Contains(b, []byte("COMMIT\x00")) {
		return c.Conn.Write(b)
	}
	if c.commits++; c.commits == 1 {
		return c.Conn.Write(b)
	}
	if c.c.before.Add(-1) >= 0 {
		c.c.cut.Add(1)
		_ = c.Close()
		return 0, errCut
	}
	n, err := c.Conn.Write(b)
	if c.c.after.Add(-1) >= 0 {
		c.c.cut.Add(1)
		// The server has the COMMIT; let it answer into nothing.
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	return n, err
}

func quick(c *store.Config) {
	c.Retry = fault.Backoff{Initial: 5 * time.Millisecond, Max: 50 * time.Millisecond}
}

// history is a little of everything, with its counts.
func history() []*event.Event {
	m := newMaker()
	post := m.post(1, nil, nil)
	events := []*event.Event{post}
	for i := range 30 {
		reply := m.post(10+i, post, post)
		events = append(events, reply, m.like(50+i, post), m.like(50+i, reply))
	}
	return append(events, m.delete(events[1]), m.delete(events[2]))
}

func checkHistory(t *testing.T, st *store.Store, pool *pgxpool.Pool, schema string) {
	t.Helper()
	settle(t, st)
	require.Equal(t, 30, count(t, pool, schema, `SELECT count(*) FROM {s}.post`))
	require.Equal(t, 59, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`))
	require.Equal(t, 29, count(t, pool, schema, `SELECT count(*) FROM {s}.notification WHERE reason = 'reply'`))
	noDrift(t, st)
}

// TestConnectionCutAtCommit: whether the commit was done or not, the batch is
// applied once.
func TestConnectionCutAtCommit(t *testing.T) {
	t.Parallel()
	_, direct, schema := newStore(t)
	c := &cutter{}
	cfg := direct.Config().Copy()
	// As behind a transaction pooler: nothing is prepared by name.
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	dialer := &net.Dialer{}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		return &cutConn{Conn: conn, c: c}, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	st := newStoreOn(t, pool, schema, quick)
	events := history()
	for from := 0; from < len(events); from += 20 {
		c.before.Store(1)
		c.after.Store(1)
		applyParallel(t, []*store.Store{st}, 20, events[from:min(from+20, len(events))])
	}
	require.GreaterOrEqual(t, c.cut.Load(), int64(2*len(events)/20))
	c.before.Store(0)
	c.after.Store(0)
	checkHistory(t, newStoreOn(t, direct, schema), direct, schema)
}

// TestServerErrors: errors that depend on the moment are retried.
func TestServerErrors(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]string{"deadlock": "40P01", "serialization": "40001", "disk full": "53100", "shutdown": "57P01", "lock": "55P03"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, pool, schema := newStore(t, quick)
			_, err := pool.Exec(context.Background(), fmt.Sprintf(`CREATE SEQUENCE %[1]s_sluice.faults;
CREATE FUNCTION %[1]s_sluice.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF nextval('%[1]s_sluice.faults') %% 3 <> 0 THEN RAISE EXCEPTION 'by the test' USING ERRCODE = '%[2]s'; END IF; RETURN NULL; END $$;
CREATE TRIGGER fail AFTER INSERT ON %[1]s.actor_sync FOR EACH STATEMENT EXECUTE FUNCTION %[1]s_sluice.fail()`, schema, state))
			require.NoError(t, err)
			applyParallel(t, []*store.Store{st}, 20, history())
			require.GreaterOrEqual(t, count(t, pool, schema, `SELECT last_value FROM {s}_sluice.faults`), 12)
			checkHistory(t, st, pool, schema)
		})
	}
}

// TestStatementTimeout: a statement that takes too long is cancelled and tried
// again.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t, quick, func(c *store.Config) { c.StatementTimeout = 100 * time.Millisecond })
	ctx := context.Background()
	tx, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, `LOCK TABLE `+schema+`."like" IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fault.Sleep(ctx, 400*time.Millisecond)
		_ = tx.Rollback(ctx)
	}()
	applyParallel(t, []*store.Store{st}, 100, history())
	<-done
	checkHistory(t, newStoreOn(t, pool, schema), pool, schema)
}

// TestPoison: one record that PostgreSQL refuses is found in a batch of 500 and
// reported; the others are applied, and its account was seen.
func TestPoison(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t, quick)
	m := newMaker()
	post := m.post(1, nil, nil)
	batch := []store.Change{{Event: post, Live: true}}
	r := rand.New(rand.NewPCG(1, 2))
	var bad *event.Event
	for i := range 499 {
		e := m.like(10+i, post)
		if i == 321 {
			var b strings.Builder
			for range 6000 {
				b.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[r.IntN(62)])
			}
			long := *post
			long.RKey = b.String()
			bad = m.like(10+i, &long)
			e = bad
		}
		batch = append(batch, store.Change{Event: e, Live: true})
	}
	out, err := st.Apply(context.Background(), batch)
	require.NoError(t, err)
	for i, res := range out.Results {
		if batch[i].Event != bad {
			require.Equal(t, store.Applied, res.Result)
			continue
		}
		var why *derive.RejectError
		require.Equal(t, store.Rejected, res.Result)
		require.ErrorAs(t, res.Err, &why)
	}
	settle(t, st)
	require.Equal(t, 498, count(t, pool, schema, `SELECT count(*) FROM {s}."like"`))
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.actor_sync WHERE did = $1`, bad.DID))
	noDrift(t, st)
}

// TestRestart: PostgreSQL crashes and comes back in mid-work.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := testkit.StartPostgres(t)
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, server.URL)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, store.Migrate(ctx, pool, "bsky"))
	st := newStoreOn(t, pool, "bsky", quick)
	events := history()
	applyParallel(t, []*store.Store{st}, 7, events[:40])
	server.Kill()
	restarted := make(chan error, 1)
	go func() {
		_ = fault.Sleep(ctx, 300*time.Millisecond)
		restarted <- server.Start()
	}()
	applyParallel(t, []*store.Store{st}, 7, events[40:])
	require.NoError(t, <-restarted)
	checkHistory(t, st, pool, "bsky")
}

// TestInconsistentTables: a row that is there without its record does not stop
// the batch.
func TestInconsistentTables(t *testing.T) {
	t.Parallel()
	st, pool, schema := newStore(t, quick)
	m := newMaker()
	post := m.post(1, nil, nil)
	_, err := pool.Exec(context.Background(), `INSERT INTO `+schema+`.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt") VALUES ($1, '', 'post', '', '', '')`, post.URI())
	require.NoError(t, err)
	applyParallel(t, []*store.Store{st}, 10, []*event.Event{post, m.like(2, post)})
	require.Equal(t, 1, count(t, pool, schema, `SELECT count(*) FROM {s}.post`))
}
