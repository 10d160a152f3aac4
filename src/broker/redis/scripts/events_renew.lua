-- Renews the registration of a node in a lane of the outbox of events.
-- KEYS: registrations (sorted set: node, expiry), then all other keys of the lane and the node, which live on
-- ARGV: node, time until the registration expires (ms), lifetime of the keys (ms), maximum number of lost nodes
-- Returns whether the registration had not expired (1 or 0), then the nodes whose registrations have.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expiry = redis.call('ZMSCORE', KEYS[1], ARGV[1])[1]
-- A full Redis refuses ZADD, unless the script has written before: and PEXPIRE needs no memory. Otherwise all nodes would be lost.
for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, ARGV[3])
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[4])
return { expiry and tonumber(expiry) > now and '1' or '0', unpack(lost) }
