package backfill

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/pkg/event"
)

// hostileEnds are the ends of the traps of the simulated network: the reason
// and, of one attempt and one more, how many are made.
var hostileEnds = map[string]struct {
	reason   Reason
	attempts int
}{
	"endless": {TooLarge, 1}, "redirect_loop": {Redirected, 2}, "deep_mst": {MSTInvalid, 2}, "cyclic_mst": {BlockCorrupt, 2},
	"wrong_cid": {BlockCorrupt, 2}, "gzip_bomb": {CARInvalid, 2}, "missing_block": {BlockMissing, 2}, "truncated_car": {BodyCut, 2},
	"wrong_signature": {SignatureInvalid, 2},
	// The repository is sound, and a record of it is left out and counted, or
	// there are only many of them.
	"duplicate_keys": {"", 1}, "deep_record": {"", 1}, "tiny_records": {"", 1}, "giant": {"", 1},
}

// No address that the network must not name is ever dialled, however it is
// written, and neither by a redirect.
func TestBackfillRefusesAddresses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, host := range []string{
		"10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::]", "[fe80::1]", "[fd00::1]",
		"[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a00:1::]", "224.0.0.1", "255.255.255.255",
		"metadata.google.internal", // a name of which nobody outside knows the address
		"167772161", "0x0a000001", "0xa.1", "012.0.0.1", "10.1",
	} {
		a := r.w.add(t, r.w.newHost(t), 3)
		a.pds = "http://" + host + ":9"
	}
	sends := r.w.newHost(t, func(w httpWriter, req *httpRequest, _ *testHost, _ *account) bool {
		http.Redirect(w, req, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		return true
	})
	sent := r.w.add(t, sends, 3)
	x := r.start(impatient, func(c *Config) { c.Retry.Max = 0 })
	jobs := make([]event.RepoJob, 0, len(r.w.accounts))
	for did := range r.w.accounts {
		jobs = append(jobs, event.RepoJob{DID: did, Active: true})
	}
	r.jobs(jobs...)
	r.drained(30 * time.Second)
	for did, a := range r.w.accounts {
		host := strings.TrimSuffix(strings.TrimPrefix(a.pds, "http://"), ":9")
		got := r.state(did)
		switch {
		case strings.Count(host, ".") == 3 && !strings.HasPrefix(host, "012"), strings.HasPrefix(host, "["), did == sent.did:
			require.Equal(t, Record{State: StateGone, Reason: string(AddressRefused)}, got, host)
		default: // no address to some resolvers
			require.Contains(t, []string{string(AddressRefused), string(HostUnreachable), string(HostTimeout)}, got.Reason, host)
		}
	}
	require.Equal(t, 1, sends.requests(sent.did))
	require.Zero(t, x.metric("sluice_backfill_fetched_bytes_total"))
	require.InDelta(t, len(jobs), x.metric("backfiller_car_fetch_errors_total"), 0, "one counted error each")
	require.Empty(t, r.events())
}

// A giant repository that comes slowly takes one place and no more: neither
// other hosts nor other repositories of its own host wait for its end.
func TestBackfillGiantRepositoryHoldsOnePlace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	var giant *account
	one := r.w.newHost(t, func(w httpWriter, req *httpRequest, _ *testHost, a *account) bool {
		if a != giant {
			return false
		}
		b := a.car()
		sendCAR(w, b[:len(b)/2])
		flush(w)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for at := len(b) / 2; at < len(b)-1; at += 100 {
			_, _ = w.Write(b[at:min(at+100, len(b)-1)])
			flush(w)
			select {
			case <-tick.C:
			case <-release:
				_, _ = w.Write(b[min(at+100, len(b)-1):])
				return true
			case <-req.Context().Done():
				return true
			}
		}
		<-release
		_, _ = w.Write(b[len(b)-1:])
		return true
	})
	giant = r.w.add(t, one, 2000)
	as := []*account{giant}
	for range 20 {
		as = append(as, r.w.add(t, one, 5), r.w.add(t, r.w.newHost(t), 5))
	}
	x := r.start(func(c *Config) { c.Concurrency, c.Host.Concurrency = 2, 2 })
	r.enumerate(as...)
	eventually(t, 20*time.Second, "all others are done", func() bool {
		return x.metric("backfiller_repos_processed_total") >= float64(len(as)-1)
	})
	require.Equal(t, StateActive, r.state(giant.did).State)
	close(release)
	r.drained(20 * time.Second)
	r.complete(as...)
	require.Equal(t, 1, one.requests(giant.did))
}
