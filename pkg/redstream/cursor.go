package redstream

import (
	"context"

	"github.com/redis/rueidis"
)

// Cursor reads the first of the keys that exists. An error is an error, never
// "no cursor".
func (c *Client) Cursor(ctx context.Context, key string, fallback ...string) (value string, found bool, err error) {
	for _, k := range append([]string{key}, fallback...) {
		name := c.keys.cursor(k)
		value, err := c.do(ctx, c.rc.B().Get().Key(name).Build()).ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		return value, err == nil, classify("get", name, err)
	}
	return "", false, nil
}

// SetCursor overwrites the cursor at key: an administrative act. A writer that
// runs meanwhile reports ErrCursorMoved at its next append if it goes back.
func (c *Client) SetCursor(ctx context.Context, key, value string) error {
	name := c.keys.cursor(key)
	return classify("set", name, c.do(ctx, c.rc.B().Set().Key(name).Value(value).Build()).Error())
}

// DeleteCursor removes the cursor at key, so that its owner starts anew.
func (c *Client) DeleteCursor(ctx context.Context, key string) error {
	name := c.keys.cursor(key)
	return classify("del", name, c.do(ctx, c.rc.B().Del().Key(name).Build()).Error())
}
