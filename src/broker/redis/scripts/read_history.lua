-- Reads publications of a history, and creates the position of a channel that has none.
-- KEYS: stream, meta hash
-- ARGV: history size, history TTL (ms), meta TTL (ms), epoch if there is none, requested epoch (empty: any), first offset, last
--       offset, 1 if the newest comes first, maximum publications, maximum bytes, maximum bytes of a publication
-- Returns the epoch, the offset and the time (empty if unknown) of the newest publication that the channel ever had, the next offset
-- to read (0: no more), and the offset and the record of each publication. At least one is returned if there is any. The record is empty if it
-- is larger than any publication: another client has stored it.
local stream, meta = KEYS[1], KEYS[2]
local size, ttl, meta_ttl = ARGV[1], ARGV[2], ARGV[3]
local first, last, is_reverse = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
local limit, max_bytes, max_record = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
-- The first range is short, because the publications may be large; the next ones are as long as the bytes allow.
local FIRST_RANGE, MAX_RANGE = 16, 128

local epoch, top, time = open(stream, meta, size, ttl, meta_ttl, ARGV[4])

local page = { epoch, text(top), time, '0' }
last = math.min(last, top)
if (ARGV[5] ~= '' and ARGV[5] ~= epoch) or limit < 1 or first > last then
    return page
end
first = math.max(first, oldest_after(stream, top, now() - ttl))

local count, bytes, range = 0, 0, FIRST_RANGE
while first <= last do
    range = math.min(range, limit - count)
    local entries
    if is_reverse then
        entries = redis.call('XREVRANGE', stream, text(last), text(first), 'COUNT', range)
    else
        entries = redis.call('XRANGE', stream, text(first), text(last), 'COUNT', range)
    end
    for _, entry in ipairs(entries) do
        local offset, record = offset_of(entry), entry[2][3] == 'd' and entry[2][4] or ''
        if #record > max_record then
            record = ''
        end
        if bytes > 0 and bytes + #record > max_bytes then
            page[4] = text(offset)
            return page
        end
        page[#page + 1] = text(offset)
        page[#page + 1] = record
        count, bytes = count + 1, bytes + #record
        if is_reverse then
            last = offset - 1
        else
            first = offset + 1
        end
    end
    if #entries < range or count >= limit then
        return page
    end
    local room = math.floor((max_bytes - bytes) * count / math.max(bytes, 1))
    range = math.max(1, math.min(room, MAX_RANGE))
end
return page
