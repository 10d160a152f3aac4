-- Stores a login, drops those that have ended, and ends those that were not refreshed for the longest time if there are too many.
-- KEYS: logins of the user (hash)
-- ARGV: now (ms), idle lifetime (ms), login, record, end (ms), maximum number of logins
-- Returns those that were too many, each with its latest refresh (ms) and its user.
local now, idle = tonumber(ARGV[1]), tonumber(ARGV[2])
local alive, dropped = {}, {}
each_login(function(id, login)
    if is_alive(login, now, idle) then
        alive[#alive + 1] = { id = id, login = login }
    else
        dropped[#dropped + 1] = id
    end
end)
table.sort(alive, function(one, other)
    return one.login.refreshed < other.login.refreshed
end)
local ended = {}
for index = 1, #alive - math.max(tonumber(ARGV[6]), 1) + 1 do
    dropped[#dropped + 1] = alive[index].id
    ended[#ended + 1] = login_record(alive[index].id, alive[index].login)
end
for _, id in ipairs(dropped) do
    redis.call('HDEL', KEYS[1], id)
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
live_until(now, idle, tonumber(ARGV[5]))
return ended
