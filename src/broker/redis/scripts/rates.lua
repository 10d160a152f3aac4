-- Charges events to users: a token bucket for each, as the time at which it will be full again.
-- KEYS: for each user that time (microseconds, string)
-- ARGV: time between two events at the sustained rate (microseconds), maximum time until a bucket is full (microseconds), then
-- for each user the number of events
-- Returns for each user how long it takes until its bucket is full (microseconds).
local time = redis.call('TIME')
local now, interval, maximum = time[1] * 1000000 + time[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local reply = {}
for index, key in ipairs(KEYS) do
    local left = math.max(tonumber(redis.call('GET', key) or now) - now, 0) + ARGV[2 + index] * interval
    left = math.min(left, maximum)
    redis.call('SET', key, string.format('%.0f', now + left), 'PX', string.format('%.0f', math.ceil(left / 1000) + 1))
    reply[index] = left
end
return reply
