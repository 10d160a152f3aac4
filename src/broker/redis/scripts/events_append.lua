-- Appends events to a lane of the outbox, and notes which sessions and channels a node has.
-- KEYS: events (stream), state of the lane (hash), registrations (sorted set: node, expiry), channels (hash: channel, number of
-- nodes), sessions of the node (hash: client id, record), channels of the node (hash)
-- ARGV: node, number of the call (0: the node is lost), maximum number of events that wait, lifetime of the keys (ms), then for
-- each entry its operation, its name, its value and its event (empty: none)
-- Returns the numbers of events that were appended and dropped. Of a lost node none is dropped: what has no room stays stored for the
-- node, and counts as one.
local node, number, max_waiting, lifetime = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local state = redis.call('HMGET', KEYS[2], 'waiting', 'number:' .. node)
local waiting, appended, dropped = tonumber(state[1] or 0), 0, 0
local is_lost = number == 0
if is_lost then
    local time, expiry = redis.call('TIME'), redis.call('ZMSCORE', KEYS[3], node)[1]
    if not expiry or tonumber(expiry) > time[1] * 1000 + math.floor(time[2] / 1000) then
        return { 0, 0 }
    end
elseif number <= tonumber(state[2] or 0) then
    return { 0, 0 }
end

local function append(event)
    if event == '' then
        return
    end
    if waiting >= max_waiting then
        dropped = dropped + 1
        return
    end
    redis.call('XADD', KEYS[1], '*', 'event', event)
    waiting, appended = waiting + 1, appended + 1
end

local function add_node(channel, change)
    local nodes = tonumber(redis.call('HMGET', KEYS[4], channel)[1] or 0) + change
    if nodes > 0 then
        redis.call('HSET', KEYS[4], channel, nodes)
    else
        redis.call('HDEL', KEYS[4], channel)
    end
    return nodes
end

for index = 5, #ARGV, 4 do
    if is_lost and waiting >= max_waiting then
        dropped = dropped + 1
        break
    end
    local operation, name, value, event = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
    if operation == 'open' then
        redis.call('HSET', KEYS[5], name, value)
        append(event)
    elseif operation == 'end' then
        if redis.call('HDEL', KEYS[5], name) == 1 or not is_lost then
            append(event)
        end
    elseif operation == 'occupy' then
        if redis.call('HSET', KEYS[6], name, value) == 1 and add_node(name, 1) == 1 then
            append(event)
        end
    elseif operation == 'vacate' then
        if redis.call('HDEL', KEYS[6], name) == 1 and add_node(name, -1) <= 0 then
            append(event)
        end
    else
        append(event)
    end
end
redis.call('HSET', KEYS[2], 'waiting', waiting)
if not is_lost then
    redis.call('HSET', KEYS[2], 'number:' .. node, number)
end
for index, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, lifetime)
end
return { appended, dropped }
