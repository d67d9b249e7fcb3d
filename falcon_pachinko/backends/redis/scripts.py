"""What Redis does in one step: Lua, with the server's own clock, in milliseconds.

Keys, all behind the namespace: ``h`` a history's epoch, last offset, size and last
forgotten offset, ``k`` what it keeps, ``i`` where a message with a key went; ``nodes``
when each node's lease ends, ``n`` a node's tables, in buckets, ``t`` a table's nodes,
``e`` one node's entries in one table; ``l`` a lease, ``tokens`` the last token; ``s``
settings, which have no end.

Each uses as few of the server's commands as can be, since an operator has to allow them
one by one. No call takes longer the more there is: what died is taken out in pieces.
"""

from __future__ import annotations

__all__ = [
    "ACQUIRE",
    "ALIVE",
    "APPEND",
    "BEAT",
    "ENTER",
    "ENTRIES",
    "FORGET",
    "LEAVE",
    "READ",
    "RECALL",
    "RELEASE",
    "REMEMBER",
    "RENEW",
    "SCRIPTS",
    "TABLES",
    "TAKE_BACK",
    "TEST",
]

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function digits(number) return string.format('%.0f', number) end
"""

# KEYS: h, k.  ARGV: count, bytes, milliseconds, the server's incarnation.
# An epoch is the time of its beginning and the incarnation of the server: what was brought back
# by a restart, from whatever state of the past, is not gone on with.
# Whatever is kept has its time, its epoch and its offset in front: 13 digits, then
# "epoch:offset:". What else may be in the list (somebody's mistake) counts as nothing, and
# leaves with what is older.
_HISTORY = (
    _NOW
    + """
local count, bytes, age = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local meta = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'size', 'forgotten')
local epoch, offset, size = meta[1], tonumber(meta[2]), tonumber(meta[3])
local forgotten = tonumber(meta[4])
local of_now = epoch and string.sub(epoch, -#ARGV[4]) == ARGV[4] or ARGV[4] == ''
if not (epoch and of_now and offset and size and forgotten) then
    epoch, offset, size, forgotten = digits(time[1] * 1000000 + time[2]) .. ARGV[4], 0, 0, 0
    -- HSET first: a server without memory refuses it, but not once something was deleted.
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0, 'size', 0, 'forgotten', 0)
    redis.call('DEL', KEYS[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local function place(item)
    local at, of, written = string.match(item, '^(%d%d%d%d%d%d%d%d%d%d%d%d%d)(%w+):(%d+):')
    local number = tonumber(written)
    if of == epoch and number > forgotten and number <= offset then
        return tonumber(at), number, #item - 15 - #of - #written
    end
end
local function trim()
    while true do
        local oldest = redis.call('LINDEX', KEYS[2], 0)
        if not oldest then
            forgotten, size = offset, 0
            break
        end
        local at, number, length = place(oldest)
        if at then
            forgotten = number - 1
            if offset - number < count and size <= bytes and at + age > now then break end
            forgotten, size = number, size - length
        end
        redis.call('LPOP', KEYS[2])
    end
    redis.call('HSET', KEYS[1], 'size', digits(size), 'forgotten', digits(forgotten))
end
"""
)

# KEYS: ..., i.  ARGV: ..., the channel to publish on, the bytes, their key if they may have been
# kept already.
APPEND = (
    _HISTORY
    + """
local data = ARGV[6]
if ARGV[7] ~= '' then
    local kept = redis.call('GET', KEYS[3])
    if kept then return {string.match(kept, '^(%w+):(%d+)$')} end
    local items = redis.call('LRANGE', KEYS[2], 0, -1)
    for index = #items, 1, -1 do
        local _, number = place(items[index])
        if number and string.sub(items[index], -#data) == data then
            return {epoch, digits(number)}
        end
    end
end
offset, size = offset + 1, size + #data
local position = epoch .. ':' .. digits(offset)
redis.call('RPUSH', KEYS[2], digits(now) .. position .. ':' .. data)
redis.call('HSET', KEYS[1], 'offset', digits(offset))
trim()
redis.call('PEXPIREAT', KEYS[1], digits(now + age))
redis.call('PEXPIREAT', KEYS[2], digits(now + age))
if ARGV[7] ~= '' then redis.call('SET', KEYS[3], position, 'PX', 120000) end
redis.call('PUBLISH', ARGV[5], '\\254K' .. position .. ':' .. data)
return {epoch, digits(offset)}
"""
)

# ARGV: ..., the epoch and the offset after which to read.
# What is skipped is the right number of entries, or fewer if there are others between them.
READ = (
    _HISTORY
    + """
trim()
local after = tonumber(ARGV[6])
local complete = epoch == ARGV[5] and after >= forgotten and after <= offset
local skipped = complete and after - forgotten or 0
local items = redis.call('LRANGE', KEYS[2], digits(skipped), -1)
return {epoch, digits(offset), digits(forgotten), complete and 1 or 0, items}
"""
)

# KEYS: h, k.
FORGET = "return redis.call('DEL', KEYS[1], KEYS[2])\n"

# KEYS: e, t, n, its bucket, nodes.  ARGV: node, table, bucket, milliseconds, whether to replace,
# then keys and values.
ENTER = (
    _NOW
    + """
if ARGV[5] == '1' then redis.call('DEL', KEYS[1]) end
if #ARGV == 5 then
    if redis.call('EXISTS', KEYS[1]) == 0 then
        redis.call('SREM', KEYS[2], ARGV[1])
        redis.call('SREM', KEYS[4], ARGV[2])
        if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[3], ARGV[3]) end
    end
    return 0
end
redis.call('ZADD', KEYS[5], 'NX', digits(now + ARGV[4]), ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[3])
redis.call('SADD', KEYS[4], ARGV[2])
for place = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1]) end
return 1
"""
)

# KEYS: e, t, n, its bucket.  ARGV: node, table, bucket, then keys.
LEAVE = """
for place = 4, #ARGV do redis.call('HDEL', KEYS[1], ARGV[place]) end
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('SREM', KEYS[2], ARGV[1])
    redis.call('SREM', KEYS[4], ARGV[2])
    if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SREM', KEYS[3], ARGV[3]) end
end
return 1
"""

# KEYS: n.
TABLES = """
local found = {}
for _, bucket in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    for _, name in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':' .. bucket)) do
        found[#found + 1] = name
    end
end
return found
"""

# KEYS: t, nodes.  ARGV: namespace, table, the node that asks.
ENTRIES = (
    _NOW
    + """
local found = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local until_ = tonumber(redis.call('ZSCORE', KEYS[2], node) or 0)
    if until_ > now or node == ARGV[3] then
        local key = ARGV[1] .. ':e:' .. #node .. ':' .. node .. ':' .. ARGV[2]
        local entries = redis.call('HGETALL', key)
        if #entries > 0 then
            found[#found + 1] = node
            found[#found + 1] = entries
        end
    end
end
return found
"""
)

# ARGV: namespace, node, ...
# At most MOST tables and one bucket more go in one call; more() says whether some are left.
_SWEEP = """
local MOST, swept = 1000, 0
local function more() return swept >= MOST end
local function sweep(node)
    local mine = ARGV[1] .. ':n:' .. node
    for _, bucket in ipairs(redis.call('SMEMBERS', mine)) do
        if more() then return end
        for _, name in ipairs(redis.call('SMEMBERS', mine .. ':' .. bucket)) do
            redis.call('DEL', ARGV[1] .. ':e:' .. #node .. ':' .. node .. ':' .. name)
            redis.call('SREM', ARGV[1] .. ':t:' .. name, node)
            swept = swept + 1
        end
        redis.call('DEL', mine .. ':' .. bucket)
        redis.call('SREM', mine, bucket)
    end
    redis.call('ZREM', KEYS[1], node)
end
"""

# KEYS: nodes.  ARGV: namespace, node, milliseconds, whether it had a lease before.
# Whoever beats takes out what dead nodes left behind.
BEAT = (
    _NOW
    + _SWEEP
    + """
local ended = redis.call('ZSCORE', KEYS[1], ARGV[2])
local lapsed = ended and tonumber(ended) <= now or not ended and ARGV[4] == '1'
redis.call('ZADD', KEYS[1], digits(now + ARGV[3]), ARGV[2])
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', digits(now), 'LIMIT', 0, 50)) do
    if more() then break end
    sweep(node)
end
local alive = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. digits(now), '+inf')
table.insert(alive, 1, lapsed and 1 or 0)
table.insert(alive, 2, more() and 1 or 0)
return alive
"""
)

# KEYS: nodes.
ALIVE = _NOW + "return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. digits(now), '+inf')\n"

# KEYS: nodes.  ARGV: namespace, node.
TAKE_BACK = _SWEEP + "sweep(ARGV[2])\nreturn more() and 1 or 0\n"

# KEYS: l, tokens.  ARGV: milliseconds.  The clock is in a token, so that it grows even after
# the server has lost everything.
ACQUIRE = (
    _NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local token = digits(math.max(last + 1, time[1] * 1000000 + time[2]))
redis.call('SET', KEYS[2], token)
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
"""
)

# KEYS: l.  ARGV: token, milliseconds.
RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: l.  ARGV: token.
RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# KEYS: s.  ARGV: names and values.
REMEMBER = """
local replaced = {}
for place = 1, #ARGV, 2 do
    replaced[#replaced + 1] = redis.call('HMGET', KEYS[1], ARGV[place])[1]
    redis.call('HSET', KEYS[1], ARGV[place], ARGV[place + 1])
end
return replaced
"""

# KEYS: s.
RECALL = "return redis.call('HGETALL', KEYS[1])\n"

# KEYS: a key of its own.  What a probe writes, to see whether anything can be written.
TEST = "return redis.call('SET', KEYS[1], '1', 'PX', 1)\n"

SCRIPTS = (
    APPEND, READ, FORGET, ENTER, LEAVE, ENTRIES, TABLES, BEAT, ALIVE, TAKE_BACK, ACQUIRE, RENEW,
    RELEASE, REMEMBER, RECALL, TEST,
)  # fmt: skip
