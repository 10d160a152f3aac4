-- Lets clients that are stored as present live longer.
-- ARGV: time to live (ms), then for each channel the number of its clients, and the id of each
-- Returns the numbers of the clients that are not stored, counted over all channels from 1.
local ttl, missing = tonumber(ARGV[1]), {}
local counted = 0

local function note_missing(_, _, count)
    for number = counted + 1, counted + count do
        missing[#missing + 1] = number
    end
    counted = counted + count
end

change_each(2, 1, function(clients, expiries, first, count)
    remove_expired(clients, expiries, count)
    if redis.call('PTTL', clients) == -2 then
        return note_missing(nil, nil, count)
    end
    local scores, absent = {}, {}
    for index, expiry in ipairs(redis.call('ZMSCORE', expiries, unpack(ARGV, first, first + count - 1))) do
        if expiry and tonumber(expiry) > now then
            scores[#scores + 1], scores[#scores + 2] = now + ttl, ARGV[first + index - 1]
        else
            absent[#absent + 1] = counted + index
        end
    end
    if #scores > 0 then
        redis.call('ZADD', expiries, unpack(scores))
        live_longer(clients, ttl)
        live_longer(expiries, ttl)
    end
    for _, number in ipairs(absent) do
        missing[#missing + 1] = number
    end
    counted = counted + count
end, note_missing)
return missing
