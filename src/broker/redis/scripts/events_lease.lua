-- Leases the takeover of a lost node in a lane of the outbox of events: no other node appends its events meanwhile.
-- KEYS: registrations (sorted set: node, expiry), state of the lane (hash), sessions and channels of the lost node (hashes)
-- ARGV: node that takes over, lost node, lease (ms), lifetime of the keys (ms)
-- Returns whether the node may (1 or 0).
local taker, lost, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time, expiry = redis.call('TIME'), redis.call('ZMSCORE', KEYS[1], lost)[1]
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not expiry or tonumber(expiry) > now then
    -- It has come back, or everything has been appended.
    redis.call('HDEL', KEYS[2], 'taker:' .. lost, 'taken until:' .. lost)
    return 0
end
local held = redis.call('HMGET', KEYS[2], 'taker:' .. lost, 'taken until:' .. lost)
if held[1] and held[1] ~= taker and tonumber(held[2] or 0) > now then
    return 0
end
-- What the lost node had lives until it is taken over, however long the outbox has no room for it. And after these writes, which need no
-- memory, a full Redis accepts HSET as well.
for index = 2, 4 do
    redis.call('PEXPIRE', KEYS[index], ARGV[4])
end
redis.call('HSET', KEYS[2], 'taker:' .. lost, taker, 'taken until:' .. lost, now + lease)
-- A lane to which nothing was appended had no state yet.
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
