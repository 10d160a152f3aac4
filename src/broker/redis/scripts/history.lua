-- Functions of the scripts that use a history. They are prepended to those scripts.
--
-- The stream's ids are the offsets. An entry has the fields `t`, the time of this server in milliseconds, and `d`, the record.
-- Fields of the meta hash: `e` epoch; `o` and `t` offset and time (by its publisher) of the newest publication that the channel
-- ever had; `r` retention of the last use; `v` and `w` the newest version and its epoch; `x` time of this server at which a
-- publication has last renewed the lifetimes of both keys.

-- Every so many publications, what has expired is trimmed. Readers skip it until then.
local TRIM_INTERVAL = 64

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Publications renew lifetimes when this time has passed, because each renewal is a command. So whatever sets a lifetime makes it
-- longer by this time.
local function renewal(ttl)
    return math.floor(ttl / 16)
end

-- Lua formats large numbers with an exponent.
local function text(number)
    return string.format('%.0f', number)
end

-- Returns whether a meta hash contains a position, which Lua can count on exactly. Another client may have changed it.
local function has_position(epoch, top)
    return epoch and #epoch == 8 and top and top >= 0 and top < 2 ^ 53
end

local function offset_of(entry)
    return tonumber(string.match(entry[1], '^%d+'))
end

local function has_expired(entry, cutoff)
    return entry[2][1] == 't' and tonumber(entry[2][2]) <= cutoff
end

-- Returns the offset of the oldest publication that was stored after `cutoff`, or a larger one than `top`: the entries are in
-- the order of their times.
local function oldest_after(stream, top, cutoff)
    local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    if not oldest then
        return top + 1
    end
    if not has_expired(oldest, cutoff) then
        return offset_of(oldest)
    end
    local low, high = offset_of(oldest) + 1, top + 1
    while low < high do
        local middle = math.floor((low + high) / 2)
        local found = redis.call('XRANGE', stream, text(middle), '+', 'COUNT', 1)[1]
        if found and has_expired(found, cutoff) then
            low = offset_of(found) + 1
        else
            high = middle
        end
    end
    return low
end

local function trim_expired(stream, top, ttl)
    redis.call('XTRIM', stream, 'MINID', '=', text(oldest_after(stream, top, now() - ttl)))
end

-- Applies a changed retention to what is stored. First by the old one: what has expired does not return under a longer one.
local function change_retention(stream, meta, top, old, size, ttl)
    local old_ttl = old and tonumber(string.match(old, ':(%d+)$'))
    trim_expired(stream, top, math.min(old_ttl or tonumber(ttl), tonumber(ttl)))
    redis.call('XTRIM', stream, 'MAXLEN', '=', size)
    -- The lifetimes of the keys are those of the old one.
    redis.call('HSET', meta, 'r', size .. ':' .. ttl, 'x', 0)
end

-- Returns the position of a channel, which is used with this retention from now on, and the time of its newest publication (empty if
-- unknown). Creates the position if there is none.
local function open(stream, meta, size, ttl, meta_ttl, first_epoch)
    local fields = redis.call('HMGET', meta, 'e', 'o', 'r', 't')
    local epoch, top, retention, time = fields[1], tonumber(fields[2]), fields[3], fields[4]
    if not has_position(epoch, top) then
        epoch, top, time = first_epoch, 0, false
        redis.call('HSET', meta, 'e', epoch, 'o', 0, 'r', size .. ':' .. ttl)
        redis.call('HDEL', meta, 't', 'v', 'w')
        redis.call('DEL', stream)
    elseif retention ~= size .. ':' .. ttl then
        change_retention(stream, meta, top, retention, size, ttl)
    end
    redis.call('PEXPIRE', meta, text(meta_ttl + renewal(ttl)))
    return epoch, top, time or ''
end
