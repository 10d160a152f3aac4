-- Removes the events that the backend has accepted from a lane of the outbox, and reads the next ones.
-- KEYS: events (stream), state of the lane (hash)
-- ARGV: node, lease (ms; 0: gives the lease back), id below which all events are accepted (or empty), maximum number of events, lifetime of the
-- keys (ms)
-- Returns the number of events that wait and whether the node may send (1 or 0), then for each event its id and text.
local node, lease, accepted, count = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
-- A full Redis refuses HSET, unless the script has written before: and PEXPIRE needs no memory. So the outbox can be emptied.
redis.call('PEXPIRE', KEYS[1], ARGV[5])
local state = redis.call('HMGET', KEYS[2], 'waiting', 'sender', 'leased until')

-- The state may be gone: then this creates it.
local function set(...)
    redis.call('HSET', KEYS[2], ...)
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
end

local waiting = tonumber(state[1] or 0)
if accepted ~= '' then
    waiting = math.max(waiting - redis.call('XTRIM', KEYS[1], 'MINID', accepted), 0)
    set('waiting', waiting)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if state[2] and state[2] ~= node and tonumber(state[3] or 0) > now then
    return { tostring(waiting), '0' }
end
local entries = lease > 0 and redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', count) or {}
if #entries == 0 then
    redis.call('HDEL', KEYS[2], 'sender', 'leased until')
    if lease > 0 and waiting > 0 then
        -- The stream is gone, and its count is not.
        set('waiting', 0)
        waiting = 0
    end
    return { tostring(waiting), '1' }
end
set('sender', node, 'leased until', now + lease)
local reply = { tostring(waiting), '1' }
for _, entry in ipairs(entries) do
    reply[#reply + 1] = entry[1]
    reply[#reply + 1] = entry[2][2]
end
return reply
