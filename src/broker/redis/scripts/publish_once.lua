-- Announces a publication that is not stored, unless its idempotency key is known.
-- KEYS: idempotency key
-- ARGV: PUBLISH or SPUBLISH, PUB/SUB channel, message, idempotency TTL (ms)
-- Returns what is stored under the key: an empty text, or the position of a stored publication with this key.
local known = redis.call('GET', KEYS[1])
if known then
    return known
end
redis.call('SET', KEYS[1], '', 'PX', ARGV[4])
redis.call(ARGV[1], ARGV[2], ARGV[3])
return ''
