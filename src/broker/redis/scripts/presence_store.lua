-- Stores that clients are present.
-- ARGV: time to live (ms), then for each channel the number of its clients, and the id and the record of each
-- Returns OK, or the first error.
local ttl, failure = tonumber(ARGV[1]), nil

change_each(2, 2, function(clients, expiries, first, count)
    if redis.call('PTTL', clients) == -2 then
        -- Redis may have evicted the hash alone. A refresh would take the clients that are still in the set for stored.
        redis.call('DEL', expiries)
    end
    remove_expired(clients, expiries, count)
    redis.call('HSET', clients, unpack(ARGV, first, first + 2 * count - 1))
    local scores = {}
    for index = 1, 2 * count, 2 do
        scores[index], scores[index + 1] = now + ttl, ARGV[first + index - 1]
    end
    redis.call('ZADD', expiries, unpack(scores))
    live_longer(clients, ttl)
    live_longer(expiries, ttl)
end, function(error)
    failure = failure or error
end)
return failure and redis.error_reply(failure) or redis.status_reply('OK')
