package redstream

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"

	"github.com/redis/rueidis"
)

// tableShards is the number of hashes a Table is spread over. It never
// changes, or what was stored would not be found any more.
const tableShards = 8192

// Table keeps a value for each of a bounded number of names. When it is full
// it forgets names at random, so it suits what can be learned again: the last
// state of a repository, an identity. With up to about a million names of 64
// bytes Redis stores it compactly.
//
// All keys of a table belong to one stream and, on a cluster, to its slot.
type Table struct {
	c      *Client
	stream string
	suffix string
	each   int // most names of one hash
}

// NewTable returns the table at the keys stream + suffix + ":" + shard, with
// room for about most names.
func (c *Client) NewTable(stream, suffix string, most int) *Table {
	return &Table{c: c, stream: stream, suffix: suffix, each: max(most/tableShards, 1)}
}

func (t *Table) shard(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return t.c.keys.of(t.stream, t.suffix+":"+strconv.FormatUint(h.Sum64()%tableShards, 16))
}

// Get returns the values of names in their order, "" for those without one.
func (t *Table) Get(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	once, cancel := attempt(ctx)
	defer cancel()
	if len(names) == 1 { // one command of its own joins the pipeline of others
		key := t.shard(names[0])
		v, err := t.c.rc.Do(once, t.c.rc.B().Hget().Key(key).Field(names[0]).Build()).ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, classify("hget", key, err)
		}
		return []string{v}, nil
	}
	cmds := make(rueidis.Commands, len(names))
	for i, n := range names {
		cmds[i] = t.c.rc.B().Hget().Key(t.shard(n)).Field(n).Build()
	}
	out := make([]string, len(names))
	for i, r := range t.c.rc.DoMulti(once, cmds...) {
		v, err := r.ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, classify("hget", t.stream+t.suffix, err)
		}
		out[i] = v
	}
	return out, nil
}

// tablePut stores names and makes room in the hashes that are full.
//
//	KEYS the hash of each name
//	ARGV most names of a hash, then name, value, ...
var tablePut = rueidis.NewLuaScript(`
local most = tonumber(ARGV[1])
for i = 1, #KEYS do
  redis.call('HSET', KEYS[i], ARGV[2 * i], ARGV[2 * i + 1])
  local n = redis.call('HLEN', KEYS[i])
  if n > most then
    for _, f in ipairs(redis.call('HRANDFIELD', KEYS[i], n - most + 1)) do
      if f ~= ARGV[2 * i] and n > most then
        redis.call('HDEL', KEYS[i], f)
        n = n - 1
      end
    end
  end
end
return 1`)

// Put gives each name its value. It tries once: a table is never worth waiting for.
func (t *Table) Put(ctx context.Context, names, values []string) error {
	const step = 500
	if len(names) != len(values) {
		return fmt.Errorf("table put: %d names, %d values", len(names), len(values))
	}
	for from := 0; from < len(names); from += step {
		to := min(from+step, len(names))
		keys, args := make([]string, 0, to-from), make([]string, 1, 2*(to-from)+1)
		args[0] = strconv.Itoa(t.each)
		for i := from; i < to; i++ {
			keys = append(keys, t.shard(names[i]))
			args = append(args, names[i], values[i])
		}
		if err := t.c.script(ctx, tablePut, keys, args).Error(); err != nil {
			return classify("table put", t.c.keys.of(t.stream, t.suffix), err)
		}
	}
	return nil
}

// Delete forgets names.
func (t *Table) Delete(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cmds := make(rueidis.Commands, len(names))
	for i, n := range names {
		cmds[i] = t.c.rc.B().Hdel().Key(t.shard(n)).Field(n).Build()
	}
	once, cancel := attempt(ctx)
	defer cancel()
	for i, r := range t.c.rc.DoMulti(once, cmds...) {
		if err := r.Error(); err != nil {
			return classify("hdel", t.shard(names[i]), err)
		}
	}
	return nil
}
