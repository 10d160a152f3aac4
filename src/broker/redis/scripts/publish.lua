-- Stores a publication in its channel's history and announces it, unless its idempotency key is known or its version is old.
-- KEYS: stream, meta hash, idempotency key (absent: none)
-- ARGV: record, its time (ms), history size, history TTL (ms), meta TTL (ms), epoch if there is none, PUBLISH or SPUBLISH, PUB/SUB
--       channel, first bytes of the announcement, idempotency TTL (ms), version (20 digits; empty: none), version epoch
-- Returns the epoch and, behind its 8 characters, the offset.
--
-- The PUB/SUB channel is not in KEYS: no key has its name, and while a slot moves, Redis runs a script only if all KEYS are there.
-- XADD is the first write. So nothing is stored if Redis has no memory left or the stream's key has another type.
local stream, meta, once = KEYS[1], KEYS[2], KEYS[3]
local record, time, size, ttl, meta_ttl, first_epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local publish, channel, prefix, once_ttl, version, version_epoch = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]

if once then
    local known = redis.call('GET', once)
    if known then
        return known
    end
end

local function finish(epoch, offset)
    redis.call('PEXPIRE', meta, meta_ttl)
    local receipt = epoch .. text(offset)
    if once then
        redis.call('SET', once, receipt, 'PX', once_ttl)
    end
    return receipt
end

local fields = redis.call('HMGET', meta, 'e', 'o', 'r', 'v', 'w')
local epoch, top, retention = fields[1], tonumber(fields[2]), fields[3]
local is_new = not has_position(epoch, top)
if is_new then
    epoch, top, retention = first_epoch, 0, nil
elseif version ~= '' and fields[5] == version_epoch and fields[4] and version <= fields[4] then
    return finish(epoch, top)
end

local function append(offset)
    return redis.pcall('XADD', stream, 'MAXLEN', '=', size, text(offset), 't', text(now()), 'd', record)
end

local offset = top + 1
local added = append(offset)
if type(added) == 'table' and added.err then
    local is_behind = string.find(added.err, 'equal or smaller', 1, true)
    local is_full = string.find(added.err, 'exhausted the last possible ID', 1, true)
    if not is_behind and not is_full then
        return added
    end
    -- The stream is older than the position, which has expired or was evicted, or another client has written to it.
    redis.call('DEL', stream)
    is_new, epoch, retention, offset = true, first_epoch, nil, 1
    append(offset)
end

if is_new then
    redis.call('DEL', meta)
    redis.call('HSET', meta, 'e', epoch, 'o', text(offset), 't', time, 'r', size .. ':' .. ttl)
else
    redis.call('HSET', meta, 'o', text(offset), 't', time)
    if retention ~= size .. ':' .. ttl then
        change_retention(stream, meta, offset, retention, size, ttl)
    elseif offset % TRIM_INTERVAL == 0 then
        trim_expired(stream, offset, ttl)
    end
end
if version ~= '' then
    redis.call('HSET', meta, 'v', version, 'w', version_epoch)
end
redis.call('PEXPIRE', stream, ttl)
redis.call(publish, channel, prefix .. struct.pack('>I8', offset) .. epoch .. record)
return finish(epoch, offset)
