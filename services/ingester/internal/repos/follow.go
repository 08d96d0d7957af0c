package repos

import (
	"context"

	"sluice/services/ingester/internal/feed"
)

const method = "com.atproto.sync.subscribeRepos"

// follow reads the relay until ctx ends.
func (r *relay) follow(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a stop that was asked for is no fault
		}
		return err
	}
	return r.p.deps.Subscribe(ctx, feed.Subscription{
		Host: r.host, Method: method, Cursor: r.cursor, Frame: r.read, Oversize: r.oversize, Idle: r.quiet, State: r.state,
	})
}

// refresher renews the identities that #identity frames say have changed, so
// that a key that was replaced is not trusted for longer than it takes. It is
// best effort: a signature that does not match has its identity looked up
// again in any case.
type refresher struct {
	directory Directory
	dids      chan string
}

func newRefresher(d Directory) *refresher {
	return &refresher{directory: d, dids: make(chan string, 1024)}
}

// changed never blocks; when too many have changed at once, one is left to the
// check of its next signature.
func (r *refresher) changed(did string) {
	if r.directory == nil {
		return
	}
	select {
	case r.dids <- did:
	default:
	}
}

// run works until ctx ends.
func (r *refresher) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case did := <-r.dids:
			_, _ = r.directory.Refresh(ctx, did) // counted by the directory
		}
	}
}
