package redstream

import (
	"context"
	"errors"
	"hash/fnv"
	"strconv"

	"github.com/redis/rueidis"
)

// Register keeps one short value for each of very many names and forgets none,
// and counts the names by the first byte of their value. The names are spread
// over hashes small enough for Redis to store them compactly (up to 128 names
// and 64 bytes each by its defaults): a name costs little more than its bytes
// and those of its value. What may be forgotten belongs in a Table.
//
// All keys of a register belong to one stream and, on a cluster, to its slot.
type Register struct {
	c      *Client
	stream string
	suffix string
	shards uint64
}

// NewRegister returns the register at the keys stream + suffix + ":" + shard.
// The number of shards of a register never changes; it is the greatest number
// of names to expect, divided by about 90.
func (c *Client) NewRegister(stream, suffix string, shards int) *Register {
	return &Register{c: c, stream: stream, suffix: suffix, shards: uint64(max(shards, 1))}
}

func (l *Register) shard(name string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return l.key(strconv.FormatUint(h.Sum64()%l.shards, 16))
}

func (l *Register) key(part string) string { return l.c.keys.of(l.stream, l.suffix+":"+part) }

// Get returns the values of names in their order, "" for those without one.
func (l *Register) Get(ctx context.Context, names ...string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	cmds := make(rueidis.Commands, len(names))
	for i, n := range names {
		cmds[i] = l.c.rc.B().Hget().Key(l.shard(n)).Field(n).Build()
	}
	once, cancel := attempt(ctx)
	defer cancel()
	out := make([]string, len(names))
	for i, r := range l.c.rc.DoMulti(once, cmds...) {
		v, err := r.ToString()
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, classify("hget", l.key("*"), err)
		}
		out[i] = v
	}
	return out, nil
}

// registerSet decides the counts by the old and the new value in the same
// step, so they are exact however often a value is set.
//
//	KEYS hash of the name, hash of the counts
//	ARGV name, value
var registerSet = rueidis.NewLuaScript(`
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local was = old and string.sub(old, 1, 1) or ''
local is = string.sub(ARGV[2], 1, 1)
if was ~= is then
  if was ~= '' then redis.call('HINCRBY', KEYS[2], was, -1) end
  redis.call('HINCRBY', KEYS[2], is, 1)
end
return 1`)

// Set gives name a value, which is not empty.
func (l *Register) Set(ctx context.Context, name, value string) error {
	if value == "" {
		return errors.New("register: empty value")
	}
	shard := l.shard(name)
	return classify("register in", shard, l.c.script(ctx, registerSet, []string{shard, l.key("counts")}, []string{name, value}).Error())
}

// Counts returns the number of names by the first byte of their value.
func (l *Register) Counts(ctx context.Context) (map[string]int64, error) {
	key := l.key("counts")
	m, err := l.c.do(ctx, l.c.rc.B().Hgetall().Key(key).Build()).AsIntMap()
	return m, classify("hgetall", key, err)
}

// Scan visits every name with its value, in no order. What changes meanwhile
// may be seen before or after its change.
func (l *Register) Scan(ctx context.Context, visit func(name, value string) error) error {
	const step = 512
	for from := uint64(0); from < l.shards; from += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.scan(ctx, from, min(from+step, l.shards), visit); err != nil {
			return err
		}
	}
	return nil
}

func (l *Register) scan(ctx context.Context, from, to uint64, visit func(name, value string) error) error {
	cmds := make(rueidis.Commands, 0, to-from)
	for i := from; i < to; i++ {
		cmds = append(cmds, l.c.rc.B().Hgetall().Key(l.key(strconv.FormatUint(i, 16))).Build())
	}
	once, cancel := attempt(ctx)
	defer cancel()
	for _, r := range l.c.rc.DoMulti(once, cmds...) {
		m, err := r.AsStrMap()
		if err != nil {
			return classify("hgetall", l.key("*"), err)
		}
		for name, value := range m {
			if err := visit(name, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// totalsAdd adds to the fields of a hash.
//
//	KEYS hash
//	ARGV field, number, ...
var totalsAdd = rueidis.NewLuaScript(`
for i = 1, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1`)

// AddTotals adds to the numbers of the hash at stream + suffix, up to a
// thousand names in one step. It tries once.
func (c *Client) AddTotals(ctx context.Context, stream, suffix string, by map[string]int64) error {
	const step = 1000
	key := c.keys.of(stream, suffix)
	args := make([]string, 0, 2*min(len(by), step))
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		err := c.script(ctx, totalsAdd, []string{key}, args).Error()
		args = args[:0]
		return classify("add totals", key, err)
	}
	for name, n := range by {
		args = append(args, name, strconv.FormatInt(n, 10))
		if len(args) < 2*step {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

// Totals returns the numbers of the hash at stream + suffix.
func (c *Client) Totals(ctx context.Context, stream, suffix string) (map[string]int64, error) {
	key := c.keys.of(stream, suffix)
	m, err := c.do(ctx, c.rc.B().Hgetall().Key(key).Build()).AsIntMap()
	return m, classify("hgetall", key, err)
}

// Flag says whether the key at stream + suffix exists.
func (c *Client) Flag(ctx context.Context, stream, suffix string) (bool, error) {
	key := c.keys.of(stream, suffix)
	n, err := c.do(ctx, c.rc.B().Exists().Key(key).Build()).AsInt64()
	return n > 0, classify("exists", key, err)
}

// SetFlag creates the key at stream + suffix, or removes it.
func (c *Client) SetFlag(ctx context.Context, stream, suffix string, on bool) error {
	key := c.keys.of(stream, suffix)
	if on {
		return classify("set", key, c.do(ctx, c.rc.B().Set().Key(key).Value("1").Build()).Error())
	}
	return classify("del", key, c.do(ctx, c.rc.B().Del().Key(key).Build()).Error())
}
