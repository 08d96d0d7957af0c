package redstream

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// Cache is a Table whose values grow old. Several processes may share one.
type Cache struct{ t *Table }

// NewCache returns the cache of that name, with room for about most values.
func (c *Client) NewCache(name string, most int) *Cache {
	return &Cache{t: c.NewTable("sluice", ":cache:"+name, most)}
}

// Get returns what Set stored under name, unless it has grown too old.
func (c *Cache) Get(ctx context.Context, name string) ([]byte, bool, error) {
	got, err := c.t.Get(ctx, []string{name})
	if err != nil {
		return nil, false, err
	}
	v := unexpired(got[0], time.Now())
	return v, v != nil, nil
}

// Set stores value under name for at most ttl.
func (c *Cache) Set(ctx context.Context, name string, value []byte, ttl time.Duration) error {
	return c.SetMany(ctx, []string{name}, [][]byte{value}, ttl)
}

// GetMany returns what was stored under the names, in their order; nil for
// those without anything, or with something too old.
func (c *Cache) GetMany(ctx context.Context, names []string) ([][]byte, error) {
	got, err := c.t.Get(ctx, names)
	if err != nil {
		return nil, err
	}
	out, now := make([][]byte, len(names)), time.Now()
	for i, v := range got {
		out[i] = unexpired(v, now)
	}
	return out, nil
}

// SetMany stores the values under the names for at most ttl.
func (c *Cache) SetMany(ctx context.Context, names []string, values [][]byte, ttl time.Duration) error {
	until := strconv.FormatInt(time.Now().Add(ttl).Unix(), 36)
	dated := make([]string, len(values))
	for i, v := range values {
		dated[i] = until + " " + string(v)
	}
	return c.t.Put(ctx, names, dated)
}

// unexpired is the value of an entry of a cache; nil when there is none.
func unexpired(entry string, now time.Time) []byte {
	until, value, found := strings.Cut(entry, " ")
	if !found {
		return nil
	}
	seconds, err := strconv.ParseInt(until, 36, 64)
	if err != nil || now.Unix() > seconds {
		return nil // what cannot be read is not there
	}
	return []byte(value)
}
