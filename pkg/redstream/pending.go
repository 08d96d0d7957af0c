package redstream

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// pendingEntry is one line of XPENDING.
type pendingEntry struct {
	id, consumer string
	idle         time.Duration
	deliveries   int64
}

type pendingQuery struct {
	idle     time.Duration // 0 any
	from, to string
	count    int
	consumer string // "" any
}

func (s *source) pending(ctx context.Context, q pendingQuery) ([]pendingEntry, error) {
	return s.c.pending(ctx, s.key, s.group, q)
}

func (c *Client) pending(ctx context.Context, key, group string, q pendingQuery) ([]pendingEntry, error) {
	cmd := c.rc.B().Arbitrary("XPENDING").Keys(key).Args(group)
	if q.idle > 0 {
		cmd = cmd.Args("IDLE", strconv.FormatInt(q.idle.Milliseconds(), 10))
	}
	cmd = cmd.Args(q.from, q.to, strconv.Itoa(q.count))
	if q.consumer != "" {
		cmd = cmd.Args(q.consumer)
	}
	list, err := pendingEntries(c.do(ctx, cmd.Build()))
	return list, classify("list pending of", key, err)
}

func pendingEntries(reply rueidis.RedisResult) ([]pendingEntry, error) {
	rows, err := reply.ToArray()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return nil, nil
		}
		return nil, err
	}
	list := make([]pendingEntry, 0, len(rows))
	for i := range rows {
		cells, err := rows[i].ToArray()
		if err != nil || len(cells) != 4 {
			return nil, fmt.Errorf("row of %d cells: %w", len(cells), err)
		}
		p := pendingEntry{}
		p.id, _ = cells[0].ToString()
		p.consumer, _ = cells[1].ToString()
		ms, _ := cells[2].AsInt64()
		p.idle = time.Duration(ms) * time.Millisecond
		if p.deliveries, err = cells[3].AsInt64(); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}
