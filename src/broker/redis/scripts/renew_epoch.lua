-- Gives a channel a new epoch after acknowledged writes were lost, unless it has one already.
-- KEYS: stream, meta hash
-- ARGV: the epoch that has lost writes, the new epoch, meta TTL (ms)
-- Returns the epoch and, behind its 8 characters, the offset of the newest publication; an empty text if there is no position.
local epoch, top = unpack(redis.call('HMGET', KEYS[2], 'e', 'o'))
if not epoch or not tonumber(top) then
    return ''
end
if epoch ~= ARGV[1] then
    return epoch .. top
end
redis.call('HSET', KEYS[2], 'e', ARGV[2], 'o', 0)
redis.call('HDEL', KEYS[2], 'v', 'w')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', KEYS[1])
return ARGV[2] .. '0'
