-- Removes clients from the presence.
-- ARGV: for each channel the number of its clients, and the id of each
-- Returns OK, or the first error.
local failure

change_each(1, 1, function(clients, expiries, first, count)
    redis.call('HDEL', clients, unpack(ARGV, first, first + count - 1))
    redis.call('ZREM', expiries, unpack(ARGV, first, first + count - 1))
end, function(error)
    failure = failure or error
end)
return failure and redis.error_reply(failure) or redis.status_reply('OK')
