-- Replaces the record of a claim, if it still is what the caller has read.
-- KEYS: the record (string)
-- ARGV: what the caller has read (empty: no record), the new record (empty: only read), for how long it lasts (milliseconds)
-- Returns the record that is stored then (empty: none), and the time (milliseconds since 1970)
local stored = redis.call('GET', KEYS[1]) or ''
-- No node writes so much.
if #stored > 512 then
    stored = ''
end
local time = redis.call('TIME')
if ARGV[2] ~= '' and stored == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
    stored = ARGV[2]
end
return {stored, time[1] * 1000 + math.floor(time[2] / 1000)}
