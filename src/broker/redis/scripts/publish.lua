-- Stores publications in their channels' histories and announces them: each unless its idempotency key is known or its version is old.
-- KEYS: of each publication its stream, its meta hash, and with an idempotency TTL its idempotency key
-- ARGV: PUBLISH or SPUBLISH, first bytes of the announcements, history size, history TTL (ms), meta TTL (ms), epoch of channels
--       without one, idempotency TTL (ms; empty: no keys), version (20 digits; empty: none), version epoch; then of each
--       publication its PUB/SUB channel, its record, its time (ms)
-- Returns of each publication the epoch and, behind its 8 characters, the offset; or its error, which the others do not share.
--
-- The PUB/SUB channels are not in KEYS: no key has their names, and while a slot moves, Redis runs a script only if all KEYS are there.
-- XADD is the first write of a publication. So nothing is stored if Redis has no memory left or the stream's key has another type.
local publish, prefix, size, ttl, meta_ttl, first_epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local once_ttl, version, version_epoch = ARGV[7], ARGV[8], ARGV[9]
local FIRST_ARGUMENTS, ARGUMENTS = 9, 3
local retention, call = size .. ':' .. ttl, redis.call
local stored_at = now()
local stored_at_text = text(stored_at)
local RENEWAL = renewal(ttl)

local function finish(once, epoch, offset)
    local receipt = epoch .. offset
    if once then
        call('SET', once, receipt, 'PX', once_ttl)
    end
    return receipt
end

-- Returns the newest version of a channel if it is of this version epoch.
local function newest_version(meta)
    local fields = call('HMGET', meta, 'v', 'w')
    return fields[2] == version_epoch and fields[1]
end

local function store(stream, meta, once, channel, record, time)
    local known = once and call('GET', once)
    if known then
        return known
    end
    local fields = call('HMGET', meta, 'e', 'o', 'r', 'x')
    local epoch, top, old_retention, renewed_at = fields[1], tonumber(fields[2]), fields[3], tonumber(fields[4])
    local is_new = not has_position(epoch, top)
    if is_new then
        epoch, top = first_epoch, 0
    elseif version ~= '' and version <= (newest_version(meta) or '') then
        call('PEXPIRE', meta, text(meta_ttl + RENEWAL))
        return finish(once, epoch, text(top))
    end

    local offset, id, added = top + 1, text(top + 1), false
    if not is_new then
        added = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '=', size, id, 't', stored_at_text, 'd', record)
    end
    local needs_lifetime = not added
    if not added then
        added = redis.pcall('XADD', stream, id, 't', stored_at_text, 'd', record)
    end
    if type(added) == 'table' and added.err then
        local is_behind = string.find(added.err, 'equal or smaller', 1, true)
        local is_full = string.find(added.err, 'exhausted the last possible ID', 1, true)
        if not is_behind and not is_full then
            return added
        end
        -- The stream is older than the position, which has expired or was evicted, or another client has written to it.
        call('DEL', stream)
        is_new, epoch, offset, id = true, first_epoch, 1, '1'
        call('XADD', stream, id, 't', stored_at_text, 'd', record)
    end

    if is_new then
        call('DEL', meta)
    elseif old_retention ~= retention then
        change_retention(stream, meta, offset, old_retention, size, ttl)
        needs_lifetime = true
    elseif offset % TRIM_INTERVAL == 0 then
        trim_expired(stream, offset, ttl)
    end
    if is_new or not renewed_at or stored_at < renewed_at or stored_at >= renewed_at + RENEWAL then
        needs_lifetime = true
    end
    if is_new then
        call('HSET', meta, 'e', epoch, 'o', id, 't', time, 'r', retention, 'x', stored_at_text)
    elseif needs_lifetime then
        call('HSET', meta, 'o', id, 't', time, 'x', stored_at_text)
    else
        call('HSET', meta, 'o', id, 't', time)
    end
    if needs_lifetime then
        call('PEXPIRE', stream, text(ttl + RENEWAL))
        call('PEXPIRE', meta, text(meta_ttl + RENEWAL))
    end
    if version ~= '' then
        call('HSET', meta, 'v', version, 'w', version_epoch)
    end
    call(publish, channel, prefix .. struct.pack('>I8', offset) .. epoch .. record)
    return finish(once, epoch, id)
end

local keys = once_ttl == '' and 2 or 3
local replies = {}
for number = 1, #KEYS / keys do
    local key, argument = (number - 1) * keys, FIRST_ARGUMENTS + (number - 1) * ARGUMENTS
    local stream, meta, once = KEYS[key + 1], KEYS[key + 2], keys == 3 and KEYS[key + 3]
    local channel, record, time = ARGV[argument + 1], ARGV[argument + 2], ARGV[argument + 3]
    local has_run, reply = pcall(store, stream, meta, once, channel, record, time)
    if not has_run and type(reply) ~= 'table' then
        -- Redis 6.2 raises a text.
        reply = redis.error_reply(string.match(reply, '%u+ .*') or ('ERR ' .. reply))
    end
    replies[number] = reply
end
return replies
