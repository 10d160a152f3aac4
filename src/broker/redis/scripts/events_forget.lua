-- Removes a lost node from a lane of the outbox of events, unless it has come back.
-- KEYS: registrations (sorted set: node, expiry), state of the lane (hash), sessions and channels of the node (hashes)
-- ARGV: node
-- Returns 1.
local time, expiry = redis.call('TIME'), redis.call('ZMSCORE', KEYS[1], ARGV[1])[1]
if expiry and tonumber(expiry) <= time[1] * 1000 + math.floor(time[2] / 1000) then
    redis.call('ZREM', KEYS[1], ARGV[1])
    redis.call('HDEL', KEYS[2], 'number:' .. ARGV[1], 'taker:' .. ARGV[1], 'taken until:' .. ARGV[1])
    redis.call('UNLINK', KEYS[3], KEYS[4])
end
return 1
