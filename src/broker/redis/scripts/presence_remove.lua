-- Removes a client from the presence of a channel.
-- KEYS: present clients (hash: id, record), their expiries (sorted set: id by milliseconds)
-- ARGV: id of the client
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.status_reply('OK')
