-- Keeps revocations until they expire, unless there are too many. Of two for one target the later times apply.
-- KEYS: revocations (hash: target, times; and their number under an empty target), expiries (sorted set: target by milliseconds)
-- ARGV: maximum number, 'merge' or 'replace' for what is stored for a target, then for each its target, its expiry (ms), and the
-- time of issue (ms), or no digits for any. Behind the digits of a time there may be a dot and its signature.
-- Returns 1, or 0 if they would be too many: then none is kept. The times of a target are its expiry, a space, and the time of
-- issue.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entries, expiries = KEYS[1], KEYS[2]
local count, last = tonumber(redis.call('HMGET', entries, '')[1] or 0), 0

-- Returns whether there may be more.
local function drop_expired()
    local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 1000)
    if #expired > 0 then
        redis.call('ZREM', expiries, unpack(expired))
        count = count - redis.call('HDEL', entries, unpack(expired))
    end
    return #expired == 1000
end

-- Returns the milliseconds of a time; nil without digits.
local function millis(time)
    return tonumber(string.match(time, '^%d+'))
end

local function later(one, other)
    return millis(one) < millis(other) and other or one
end

-- PEXPIRE GT needs Redis 7.
local function live_until_last(key)
    if redis.call('PTTL', key) < last - now then
        redis.call('PEXPIRE', key, string.format('%.0f', last - now))
    end
end

drop_expired()
local known, new = {}, 0
for index = 3, #ARGV, 3 do
    local target = ARGV[index]
    -- A target may be there several times.
    if known[target] == nil then
        known[target] = redis.call('HMGET', entries, target)[1]
        new = new + (known[target] and 0 or 1)
    end
end
-- Those that are known need no room, also if another instance with a higher limit has stored more.
local function are_too_many()
    return new > 0 and count + new > tonumber(ARGV[1])
end

while are_too_many() and drop_expired() do
end
if are_too_many() then
    redis.call('HSET', entries, '', count)
    return 0
end
for index = 3, #ARGV, 3 do
    local target, expiry, issued = ARGV[index], ARGV[index + 1], ARGV[index + 2]
    local known_expiry, known_issued = string.match(known[target] or '', '^(%d[^ ]*) ([^ ]*)$')
    if known_expiry and ARGV[2] == 'merge' then
        expiry = later(expiry, known_expiry)
        if millis(issued) then
            issued = millis(known_issued) and later(issued, known_issued) or known_issued
        end
    end
    known[target] = expiry .. ' ' .. issued
    redis.call('HSET', entries, target, known[target])
    redis.call('ZADD', expiries, string.match(expiry, '^%d+'), target)
    last = math.max(last, millis(expiry))
end
redis.call('HSET', entries, '', count + new)
live_until_last(entries)
live_until_last(expiries)
return 1
