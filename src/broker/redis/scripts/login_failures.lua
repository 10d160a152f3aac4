-- Failed logins: a text of their number and of the earliest time for the next attempt (ms).

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function read_failures(key)
    local failures, earliest = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
    return { key = key, failures = tonumber(failures or 0), earliest = tonumber(earliest or 0) }
end

local function write_failures(record, lifetime)
    local text = string.format('%.0f %.0f', record.failures, record.earliest)
    redis.call('SET', record.key, text, 'PX', string.format('%.0f', lifetime))
end
