package enumerate

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logLimit lets one line of a kind and host pass in ten seconds, so that what
// a host does cannot fill the log. The zero value is ready.
type logLimit struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (l *logLimit) warn(ctx context.Context, log *slog.Logger, msg, host string, err error) {
	if !l.allow(msg+host, time.Now()) {
		return
	}
	//nolint:sloglint // the callers' messages are constants; the limit is by message
	log.WarnContext(ctx, msg, slog.String("host", host), slog.Any("err", err))
}

func (l *logLimit) allow(key string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last[key]) < 10*time.Second {
		return false
	}
	if l.last == nil || len(l.last) > 10_000 {
		l.last = map[string]time.Time{}
	}
	l.last[key] = now
	return true
}
