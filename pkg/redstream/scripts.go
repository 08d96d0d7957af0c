package redstream

import "github.com/redis/rueidis"

// The scripts have no shebang: with one, Redis refuses the whole script when
// memory is full, and acking, parking and trimming must go on then. A script
// that only appends is refused at its first XADD, before anything is written.

// appendOne appends entries of one field and moves a numeric cursor.
//
//	KEYS stream, cursor
//	ARGV cursor that the writer goes on from ("" unknown), new cursor, field, then seq, value, ...
//	reply {code, number, cursor found}: code 0 done, 1 cursor moved, 2 cursor is no number
var appendOne = rueidis.NewLuaScript(`
local call, s, field, cur = redis.call, KEYS[1], ARGV[3], -1
local raw = call('GET', KEYS[2])
if raw then
  cur = tonumber(raw)
  if not cur then return {2, 0, raw} end
end
if ARGV[1] ~= '' and cur < tonumber(ARGV[1]) then return {1, 0, raw or ''} end
local n = 0
for i = 4, #ARGV, 2 do
  if tonumber(ARGV[i]) > cur then
    call('XADD', s, '*', field, ARGV[i + 1])
    n = n + 1
  end
end
if tonumber(ARGV[2]) > cur then call('SET', KEYS[2], ARGV[2]) end
return {0, n, raw or ''}`)

// appendMany is appendOne for entries of any fields: ARGV[3] is unused, then
// for each entry seq, number of arguments, name, value, ...
var appendMany = rueidis.NewLuaScript(`
local call, s, cur = redis.call, KEYS[1], -1
local raw = call('GET', KEYS[2])
if raw then
  cur = tonumber(raw)
  if not cur then return {2, 0, raw} end
end
if ARGV[1] ~= '' and cur < tonumber(ARGV[1]) then return {1, 0, raw or ''} end
local n, i = 0, 4
while i < #ARGV do
  local width = tonumber(ARGV[i + 1])
  if tonumber(ARGV[i]) > cur then
    call('XADD', s, '*', unpack(ARGV, i + 2, i + 1 + width))
    n = n + 1
  end
  i = i + 2 + width
end
if tonumber(ARGV[2]) > cur then call('SET', KEYS[2], ARGV[2]) end
return {0, n, raw or ''}`)

// appendCAS appends entries and swaps an opaque cursor.
//
//	KEYS stream, cursor
//	ARGV expected cursor ("" absent), next cursor, then for each entry number of arguments, name, value, ...
//	reply {code, number, cursor found}: code 0 done or already done, 1 cursor moved
var appendCAS = rueidis.NewLuaScript(`
local call, s = redis.call, KEYS[1]
local raw = call('GET', KEYS[2]) or ''
if raw == ARGV[2] then return {0, 0, raw} end
if raw ~= ARGV[1] then return {1, 0, raw} end
local n, i = 0, 3
while i < #ARGV do
  local width = tonumber(ARGV[i])
  call('XADD', s, '*', unpack(ARGV, i + 1, i + width))
  n, i = n + 1, i + 1 + width
end
call('SET', KEYS[2], ARGV[2])
return {0, n, raw}`)

// appendPlain appends entries: ARGV number of arguments, name, value, ...
var appendPlain = rueidis.NewLuaScript(`
local call, s, n, i = redis.call, KEYS[1], 0, 1
while i < #ARGV do
  local width = tonumber(ARGV[i])
  call('XADD', s, '*', unpack(ARGV, i + 1, i + width))
  n, i = n + 1, i + 1 + width
end
return n`)

// trimStep removes what every group has finished, at most LIMIT entries.
//
//	KEYS stream
//	ARGV step: "0" only look, "-1" remove all in one exact step, else the LIMIT of an approximate step;
//	     then the groups that must exist
//	reply {removed, floor, group, consumer, last generated id, now in ms, {names of all groups}}
//
// The floor of a group is its first pending entry that still exists, else the
// first entry after the last one delivered to it, or the id after the last of
// all. What is pending below the first entry is a phantom and needs nothing. A group that should exist and does not
// will be created at 0, so it still needs everything.
var trimStep = rueidis.NewLuaScript(`
local call, k = redis.call, KEYS[1]
local t = call('TIME')
local now = t[1] .. string.format('%03d', math.floor(tonumber(t[2]) / 1000))
if call('EXISTS', k) == 0 then return {0, '', '', '', '0-0', now, {}} end
local function split(id) return string.match(id, '(%d+)-(%d+)') end
local function lt(a, b)
  local am, as = split(a)
  local bm, bs = split(b)
  if #am ~= #bm then return #am < #bm end
  if am ~= bm then return am < bm end
  if #as ~= #bs then return #as < #bs end
  return as < bs
end
local function succ(id)
  local ms, seq = split(id)
  local i, out = #seq, ''
  while i > 0 and string.sub(seq, i, i) == '9' do
    out, i = '0' .. out, i - 1
  end
  if i == 0 then return ms .. '-1' .. out end
  return ms .. '-' .. string.sub(seq, 1, i - 1) .. (tonumber(string.sub(seq, i, i)) + 1) .. out
end
local info, last = call('XINFO', 'STREAM', k), '0-0'
for i = 1, #info, 2 do if info[i] == 'last-generated-id' then last = info[i + 1] end end
local first = call('XRANGE', k, '-', '+', 'COUNT', 1)
local fid = #first > 0 and first[1][1] or nil
local names, seen, floor, who, consumer = {}, {}, nil, '', ''
for _, g in ipairs(call('XINFO', 'GROUPS', k)) do
  local m = {}
  for i = 1, #g, 2 do m[g[i]] = g[i + 1] end
  names[#names + 1], seen[m['name']] = m['name'], true
  local need, by = nil, ''
  if fid and m['pending'] > 0 then
    local p = call('XPENDING', k, m['name'], fid, '+', 1)
    if #p > 0 then need, by = p[1][1], p[1][2] end
  end
  if not need then
    local unread = call('XRANGE', k, succ(m['last-delivered-id']), '+', 'COUNT', 1)
    need = #unread > 0 and unread[1][1] or succ(last)
  end
  if not floor or lt(need, floor) then floor, who, consumer = need, m['name'], by end
end
for i = 2, #ARGV do
  if not seen[ARGV[i]] then floor, who, consumer = fid or succ(last), ARGV[i], '' end
end
if not floor then return {0, '', '', '', last, now, names} end
local removed = 0
if ARGV[1] == '-1' then
  removed = call('XTRIM', k, 'MINID', '=', floor)
elseif ARGV[1] ~= '0' then
  removed = call('XTRIM', k, 'MINID', '~', floor, 'LIMIT', ARGV[1])
end
return {removed, floor, who, consumer, last, now, names}`)

// park acknowledges an entry and writes it to the dead letters, if it was
// still pending. The ack comes first: from then on the script may write even
// when memory is full, so a bad entry at the head cannot pin a full Redis.
//
//	KEYS stream, dead letters
//	ARGV group, id, then name, value, ...
//	reply 1 parked, 0 was not pending, -1 the dead letters are no stream
var parkEntry = rueidis.NewLuaScript(`
local t = redis.call('TYPE', KEYS[2])['ok']
if t ~= 'none' and t ~= 'stream' then return -1 end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
return 1`)

// redrive moves dead letters back to the end of their stream, without the
// fields that parking added.
//
//	KEYS dead letters, stream
//	ARGV ids
//	reply the number moved
var redriveEntries = rueidis.NewLuaScript(`
local added = {reason = true, error = true, attempts = true, first_seen = true, parked_at = true, source_id = true}
local n = 0
for _, id in ipairs(ARGV) do
  local e = redis.call('XRANGE', KEYS[1], id, id)
  if #e == 1 then
    local f, keep = e[1][2], {}
    local cut = #f
    if cut > 12 and f[cut - 11] == 'reason' and f[cut - 1] == 'source_id' then
      cut = cut - 12
      for i = 1, cut do keep[i] = f[i] end
    else
      for i = 1, #f, 2 do
        if not added[f[i]] then keep[#keep + 1], keep[#keep + 2] = f[i], f[i + 1] end
      end
    end
    if #keep > 0 then
      redis.call('XADD', KEYS[2], '*', unpack(keep))
      redis.call('XDEL', KEYS[1], id)
      n = n + 1
    end
  end
end
return n`)

// beat renews a heartbeat. The expiry comes first, whether there is a key or
// not: from then on the script may write even when memory is full.
//
//	KEYS heartbeat
//	ARGV value, life in ms
var beat = rueidis.NewLuaScript(`
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])`)

// leaveGroup removes a consumer that holds nothing, and its heartbeat.
//
//	KEYS stream, heartbeat
//	ARGV group, consumer, "1" only without heartbeat, least idle time in ms
//	reply 1 removed, 0 it stays
var leaveGroup = rueidis.NewLuaScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[3] == '1' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local ok = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if ok['err'] then return 0 end
for _, c in ipairs(ok) do
  local m = {}
  for i = 1, #c, 2 do m[c[i]] = c[i + 1] end
  if m['name'] == ARGV[2] then
    if m['pending'] > 0 or m['idle'] < tonumber(ARGV[4]) then return 0 end
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    redis.call('DEL', KEYS[2])
    return 1
  end
end
return 0`)

// delayEntry acknowledges an entry and schedules another, if it was still pending.
//
//	KEYS stream, schedule
//	ARGV group, id, due in ms, then name, value, ...
//	reply 1 scheduled, 0 was not pending, -1 the schedule is no sorted set
var delayEntry = rueidis.NewLuaScript(`
local t = redis.call('TYPE', KEYS[2])['ok']
if t ~= 'none' and t ~= 'zset' then return -1 end
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], ARGV[3], cmsgpack.pack({KEYS[1], ARGV[2], unpack(ARGV, 4)}))
return 1`)

// scheduleEntry schedules an entry that acknowledges nothing.
//
//	KEYS schedule
//	ARGV due in ms, a name that makes it unique, then name, value, ...
var scheduleEntry = rueidis.NewLuaScript(`
return redis.call('ZADD', KEYS[1], ARGV[1], cmsgpack.pack({'', ARGV[2], unpack(ARGV, 3)}))`)

// releaseDue appends what is due to the stream, at most ARGV[1] entries.
//
//	KEYS schedule, stream
//	reply {moved, ms until the next one is due or -1}
var releaseDue = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
for _, packed in ipairs(due) do
  redis.call('XADD', KEYS[2], '*', unpack(cmsgpack.unpack(packed), 3))
  redis.call('ZREM', KEYS[1], packed)
end
local nextup = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if #nextup == 0 then return {#due, -1} end
return {#due, math.max(0, tonumber(nextup[2]) - now)}`)

// gateState reads the length of a stream and the memory of its node at once.
//
//	KEYS stream
var gateState = rueidis.NewLuaScript(`
return {redis.call('XLEN', KEYS[1]), redis.call('INFO', 'memory')}`)
