-- Reads a part of the present clients of a channel, small enough that other commands do not wait long.
-- KEYS: present clients (hash: id, record), their expiries (sorted set: id by milliseconds)
-- ARGV: cursor of HSCAN, number of clients
-- Returns the next cursor, then the records of the clients that have not expired. A client may be in two parts.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local page, fields = { scanned[1] }, scanned[2]
for first = 1, #fields, 2000 do
    local last = math.min(first + 1999, #fields)
    local ids = {}
    for index = first, last, 2 do
        ids[#ids + 1] = fields[index]
    end
    local expiries = redis.call('ZMSCORE', KEYS[2], unpack(ids))
    for index, expiry in ipairs(expiries) do
        if expiry and tonumber(expiry) > now then
            page[#page + 1] = fields[first + 2 * index - 1]
        end
    end
end
return page
