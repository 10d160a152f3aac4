-- Claims a layout of keys for the installation: of two layouts the one that has been in use for longer holds.
-- KEYS: the layout that holds, behind the time since which it is in use (string)
-- ARGV: the caller's layout, the time since which it is in use (milliseconds since 1970; empty: from now on), for how long it
-- holds without a further claim (milliseconds)
-- Returns the layout that holds, and the time since which the caller's is in use.
local since, layout = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) ([ -~]+)$')
local own = tonumber(ARGV[2])
if not own then
    local time = redis.call('TIME')
    own = time[1] * 1000 + math.floor(time[2] / 1000)
end
if layout and #layout <= 100 and layout ~= ARGV[1] and tonumber(since) <= own then
    return {layout, string.format('%.0f', own)}
end
if layout == ARGV[1] then
    own = math.min(own, tonumber(since))
end
redis.call('SET', KEYS[1], string.format('%.0f %s', own, ARGV[1]), 'PX', ARGV[3])
return {ARGV[1], string.format('%.0f', own)}
