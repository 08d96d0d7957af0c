package redstream

import (
	"context"
	"strconv"

	"github.com/redis/rueidis"

	"sluice/pkg/fault"
)

// appendNoting is appendOne that also stores names in a table, in the same
// step.
//
//	KEYS stream, cursor, then the hash of each name
//	ARGV cursor that the writer goes on from ("" unknown), new cursor, field, number of entries,
//	     most names of a hash, then seq, value, ... of the entries, then name, value, ...
//	reply as appendOne
var appendNoting = rueidis.NewLuaScript(`
local call, s, field, cur = redis.call, KEYS[1], ARGV[3], -1
local raw = call('GET', KEYS[2])
if raw then
  cur = tonumber(raw)
  if not cur then return {2, 0, raw} end
end
if ARGV[1] ~= '' and cur < tonumber(ARGV[1]) then return {1, 0, raw or ''} end
local n, at, most = 0, 6, tonumber(ARGV[5])
for _ = 1, tonumber(ARGV[4]) do
  if tonumber(ARGV[at]) > cur then
    call('XADD', s, '*', field, ARGV[at + 1])
    n = n + 1
  end
  at = at + 2
end
if tonumber(ARGV[2]) > cur then call('SET', KEYS[2], ARGV[2]) end
for i = 3, #KEYS do
  local name, value = ARGV[at], ARGV[at + 1]
  local old = call('HGET', KEYS[i], name)
  if (not old or old < value) and call('HSET', KEYS[i], name, value) == 1 then
    local over = call('HLEN', KEYS[i]) - most
    if over > 0 then
      for _, f in ipairs(call('HRANDFIELD', KEYS[i], over + 1)) do
        if f ~= name and over > 0 then
          call('HDEL', KEYS[i], f)
          over = over - 1
        end
      end
    end
  end
  at = at + 2
end
return {0, n, raw or ''}`)

// AppendSeqNoting is AppendSeq that also gives each name its value in a table
// of the same stream, in the same atomic step as the last of the items. A name
// keeps the value it has if that is the higher one in the order of bytes, so
// several writers may note the same names. All items have one field, the same.
func (w *Writer) AppendSeqNoting(ctx context.Context, key string, items []Item, upTo int64, t *Table, names, values []string) (added int, err error) {
	field, ok := soleField(items)
	switch {
	case t == nil || len(names) == 0:
		return w.AppendSeq(ctx, key, items, upTo)
	case !ok:
		return 0, fault.Permanentf("append %s: items of different fields cannot be noted", w.key)
	case t.stream != w.stream:
		return 0, fault.Fatalf("append %s: %w: table of %s", w.key, ErrSlot, t.stream)
	case len(names) != len(values):
		return 0, fault.Permanentf("append %s: %d names, %d values", w.key, len(names), len(values))
	}
	if err := checkOrder(items, upTo); err != nil {
		return 0, err
	}
	// What does not fit into one call goes before, without the names.
	for {
		n, bound := stepOf(items, upTo)
		if n == len(items) {
			break
		}
		wrote, err := w.AppendSeq(ctx, key, items[:n], bound)
		added += wrote
		if err != nil {
			return added, err
		}
		items = items[n:]
	}
	keys, args := noted(items, upTo, field, t, names, values)
	key = w.c.keys.under(w.stream, key)
	keys[0], keys[1] = w.key, key
	err = w.locked(ctx, func(ctx context.Context) error {
		args[0] = w.at[key]
		once, cancel := attempt(ctx)
		defer cancel()
		reply, err := appendNoting.Exec(once, w.rc, keys, args).ToArray()
		if err != nil {
			return classify("append", w.key, err)
		}
		code, wrote, found, err := swapReply(reply)
		switch {
		case err != nil:
			return classify("append", w.key, err)
		case code == 1:
			return fault.Fatalf("append %s: %w: %s is %q, the writer goes on from %q", w.key, ErrCursorMoved, key, found, args[0])
		case code == 2:
			return fault.Fatalf("append %s: %w: %s is %q", w.key, ErrBadCursor, key, found)
		}
		w.c.metrics.appended.WithLabelValues(w.stream).Add(float64(wrote))
		added += int(wrote)
		w.at[key] = strconv.FormatInt(upTo, 10)
		return nil
	})
	return added, err
}

// noted makes the keys, with room for the first two, and the arguments, with
// room for the first, of appendNoting.
func noted(items []Item, upTo int64, field string, t *Table, names, values []string) (keys, args []string) {
	keys = make([]string, 2, 2+len(names))
	args = make([]string, 5, 5+2*len(items)+2*len(names))
	args[1], args[2] = strconv.FormatInt(upTo, 10), field
	args[3], args[4] = strconv.Itoa(len(items)), strconv.Itoa(t.each)
	for i := range items {
		args = append(args, strconv.FormatInt(items[i].Seq, 10), items[i].Fields[0].Value)
	}
	for i := range names {
		keys = append(keys, t.shard(names[i]))
		args = append(args, names[i], values[i])
	}
	return keys, args
}
