-- Stores that clients are present in one or several channels.
-- KEYS: for each channel its present clients (hash: id, record), and their expiries (sorted set: id by milliseconds)
-- ARGV: time to live (ms), then for each channel the number of its clients, and the id and the record of each
-- Returns OK, or the first error: keys of one channel with another type do not affect the other channels.
local time = redis.call('TIME')
local now, ttl = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[1])

-- PEXPIRE GT needs Redis 7.
local function live_longer(key)
    if redis.call('PTTL', key) < ttl then
        redis.call('PEXPIRE', key, ttl)
    end
end

local function store(clients, expiries, first, count)
    -- As many as usually expire meanwhile, at least.
    local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 100 + count)
    if #expired > 0 then
        redis.call('HDEL', clients, unpack(expired))
        redis.call('ZREM', expiries, unpack(expired))
    end
    redis.call('HSET', clients, unpack(ARGV, first, first + 2 * count - 1))
    local scores = {}
    for index = 1, 2 * count, 2 do
        scores[index], scores[index + 1] = now + ttl, ARGV[first + index - 1]
    end
    redis.call('ZADD', expiries, unpack(scores))
    live_longer(clients)
    live_longer(expiries)
end

local next_argument, failure = 2, nil
for key = 1, #KEYS, 2 do
    local count = tonumber(ARGV[next_argument])
    local is_stored, error = pcall(store, KEYS[key], KEYS[key + 1], next_argument + 1, count)
    next_argument = next_argument + 1 + 2 * count
    if not is_stored then
        -- Redis 7 raises tables, older ones texts.
        failure = failure or type(error) == 'table' and error.err or error
    end
end
return failure and redis.error_reply(failure) or redis.status_reply('OK')
