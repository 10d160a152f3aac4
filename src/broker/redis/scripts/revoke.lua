-- Keeps revocations until they expire, unless there are too many. Of two for one target the later times apply.
-- KEYS: expiries (sorted set: target by milliseconds), times before which tokens must be issued (hash: target, milliseconds)
-- ARGV: maximum number of revocations, then for each its target, its expiry (ms), and the time of issue (ms) or an empty text
-- Returns 1, or 0 if they would be too many: then none is kept.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiries, times = KEYS[1], KEYS[2]

local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 1000)
if #expired > 0 then
    redis.call('ZREM', expiries, unpack(expired))
    redis.call('HDEL', times, unpack(expired))
end
local new = 0
for index = 2, #ARGV, 3 do
    if not redis.call('ZSCORE', expiries, ARGV[index]) then
        new = new + 1
    end
end
-- All expired ones leave before a new one is refused.
if redis.call('ZCOUNT', expiries, '(' .. now, '+inf') + new > tonumber(ARGV[1]) then
    return 0
end
for index = 2, #ARGV, 3 do
    local target, expiry, issued = ARGV[index], ARGV[index + 1], ARGV[index + 2]
    redis.call('ZADD', expiries, 'GT', expiry, target)
    if issued ~= '' then
        local known = redis.call('HGET', times, target)
        if not known or tonumber(known) < tonumber(issued) then
            redis.call('HSET', times, target, issued)
        end
    end
end
local last = redis.call('ZRANGE', expiries, 0, 0, 'REV', 'WITHSCORES')[2]
redis.call('PEXPIREAT', expiries, last)
redis.call('PEXPIREAT', times, last)
return 1
