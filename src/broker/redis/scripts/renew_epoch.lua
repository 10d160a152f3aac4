-- Removes the history of a channel with its position, so that it gets a new epoch, unless it has another one already.
-- KEYS: stream, meta hash
-- ARGV: the epoch that has lost publications
-- Returns the epoch and, behind its 8 characters, the offset of the newest publication; an empty text if there is no position.
local epoch, top = unpack(redis.call('HMGET', KEYS[2], 'e', 'o'))
if not epoch or not top or epoch == ARGV[1] then
    redis.call('DEL', KEYS[1])
    redis.call('DEL', KEYS[2])
    return ''
end
return epoch .. top
