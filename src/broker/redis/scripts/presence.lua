-- Functions of the scripts that change the presence of one or several channels. They are prepended to those scripts.
-- KEYS: for each channel its present clients (hash: id, record), and their expiries (sorted set: id by milliseconds)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Calls `change` for each channel, with its two keys, the index in ARGV of its first client, and the number of its clients.
-- ARGV[argument] is the number of the first channel's clients, which follow it with `width` arguments each; then come the other
-- channels. If the keys of a channel have another type, calls `fail` with the error, that index and that number, and goes on.
local function change_each(argument, width, change, fail)
    for key = 1, #KEYS, 2 do
        local count = tonumber(ARGV[argument])
        local is_changed, error = pcall(change, KEYS[key], KEYS[key + 1], argument + 1, count)
        if not is_changed then
            -- Redis 7 raises tables, older ones texts.
            fail(type(error) == 'table' and error.err or error, argument + 1, count)
        end
        argument = argument + 1 + width * count
    end
end

-- Removes expired clients: as many as usually expire while `count` are stored, at least.
local function remove_expired(clients, expiries, count)
    local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 100 + count)
    if #expired > 0 then
        redis.call('HDEL', clients, unpack(expired))
        redis.call('ZREM', expiries, unpack(expired))
    end
end

-- PEXPIRE GT needs Redis 7.
local function live_longer(key, ttl)
    if redis.call('PTTL', key) < ttl then
        redis.call('PEXPIRE', key, ttl)
    end
end
