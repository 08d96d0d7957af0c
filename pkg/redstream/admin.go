package redstream

import (
	"context"
	"strings"

	"github.com/redis/rueidis"
)

// Range returns at most n entries of a stream from id from to id to, both
// included; "-" and "+" are its ends, "(" before an id leaves it out. It reads
// past every group and takes nothing from them.
func (c *Client) Range(ctx context.Context, stream, from, to string, n int) ([]Entry, error) {
	return c.entries(stream, c.do(ctx, c.rc.B().Xrange().Key(c.keys.stream(stream)).Start(from).End(to).Count(int64(n)).Build()))
}

// Newest returns at most n entries of a stream, the newest first.
func (c *Client) Newest(ctx context.Context, stream string, n int) ([]Entry, error) {
	return c.entries(stream, c.do(ctx, c.rc.B().Xrevrange().Key(c.keys.stream(stream)).End("+").Start("-").Count(int64(n)).Build()))
}

func (c *Client) entries(stream string, r rueidis.RedisResult) ([]Entry, error) {
	list, err := r.AsXRangeSlices()
	if err != nil {
		return nil, classify("range", c.keys.stream(stream), err)
	}
	out := make([]Entry, 0, len(list))
	for _, x := range list {
		if e, ok := entryOf(stream, x); ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// Cursors returns the cursors of a stream by host. It scans the whole keyspace.
func (c *Client) Cursors(ctx context.Context, stream string) (map[string]string, error) {
	head := c.keys.of(stream, ":cursor:")
	found := map[string]string{}
	for _, node := range c.rc.Nodes() {
		for cursor := uint64(0); ; {
			once, cancel := attempt(ctx)
			page, err := node.Do(once, node.B().Scan().Cursor(cursor).Match(globEscape(head)+"*").Count(1000).Build()).AsScanEntry()
			cancel()
			if err != nil {
				return nil, classify("scan", head, err)
			}
			for _, key := range page.Elements {
				value, err := c.do(ctx, c.rc.B().Get().Key(key).Build()).ToString()
				if rueidis.IsRedisNil(err) {
					continue
				}
				if err != nil {
					return nil, classify("get", key, err)
				}
				found[strings.TrimPrefix(key, head)] = value
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return found, nil
}

// globEscape makes a key match itself alone.
func globEscape(key string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`).Replace(key)
}

// Phantoms counts pending ids of a group that lie below the first entry of the
// stream, so that their entries cannot exist any more, up to a thousand. It
// changes nothing; SweepPhantoms forgets them.
func (c *Client) Phantoms(ctx context.Context, stream, group string) (int, error) {
	to := "+"
	first, err := c.Range(ctx, stream, "-", "+", 1)
	if err != nil {
		return 0, err
	}
	if len(first) > 0 {
		to = "(" + first[0].ID
	}
	list, err := c.pending(ctx, c.keys.stream(stream), group, pendingQuery{from: "-", to: to, count: 1000})
	return len(list), err
}
