-- Announces a publication that is not stored, unless its idempotency key is known.
-- KEYS: PUB/SUB channel, idempotency key
-- ARGV: message, PUBLISH or SPUBLISH, idempotency TTL (ms)
-- Returns what is stored under the key: an empty text, or the position of a stored publication with this key.
local known = redis.call('GET', KEYS[2])
if known then
    return known
end
redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
redis.call(ARGV[2], KEYS[1], ARGV[1])
return ''
