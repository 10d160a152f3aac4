-- Removes a client from the presence of a channel.
-- KEYS: 1 the present clients (hash: id, record), 2 their expiries (sorted set: milliseconds, id)
-- ARGV: 1 the id of the client
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.status_reply('OK')
