-- Reads a part of the revocations, those that expire last first: so none is left out while others expire.
-- KEYS: expiries (sorted set: target by milliseconds), times before which tokens must be issued (hash: target, milliseconds)
-- ARGV: index of the first one, index of the last one
-- Returns for each its target, its expiry (ms), and the time of issue (ms) or an empty text.
local page = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2], 'REV', 'WITHSCORES')
local result = {}
for index = 1, #page, 2 do
    result[#result + 1] = page[index]
    result[#result + 1] = page[index + 1]
    result[#result + 1] = redis.call('HGET', KEYS[2], page[index]) or ''
end
return result
