-- Stores that clients are present in a channel.
-- KEYS: present clients (hash: id, record), their expiries (sorted set: id by milliseconds)
-- ARGV: time to live (ms), then id and record of each client
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
-- Some of the clients that have expired, at least as many as usually expire meanwhile.
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 99 + math.ceil(#ARGV / 2))
for first = 1, #expired, 1000 do
    local last = math.min(first + 999, #expired)
    redis.call('HDEL', KEYS[1], unpack(expired, first, last))
    redis.call('ZREM', KEYS[2], unpack(expired, first, last))
end
for index = 2, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
    redis.call('ZADD', KEYS[2], now + ttl, ARGV[index])
end
for _, key in ipairs(KEYS) do
    -- PEXPIRE GT needs Redis 7.
    if redis.call('PTTL', key) < ttl then
        redis.call('PEXPIRE', key, ttl)
    end
end
return redis.status_reply('OK')
