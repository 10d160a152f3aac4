-- Stores a login, drops those that have ended by themselves, and ends those that were not refreshed for the longest time if there are
-- too many.
-- KEYS: logins of the user (hash)
-- ARGV: now (ms), idle lifetime (ms), login, record, end (ms), maximum number of logins
-- Returns those that were too many, and those that had been marked as ended before, each with its latest refresh (ms) and its user.
-- login_end.lua removes them when their tokens are revoked.
local now, idle = tonumber(ARGV[1]), tonumber(ARGV[2])
local alive, dropped, ended = {}, {}, {}
each_login(function(id, login)
    if not is_kept(login, now, idle) then
        dropped[#dropped + 1] = id
    elseif has_ended(login) then
        ended[#ended + 1] = login_record(id, login)
    else
        alive[#alive + 1] = { id = id, login = login }
    end
end)
table.sort(alive, function(one, other)
    return one.login.refreshed < other.login.refreshed
end)
for index = 1, #alive - math.max(tonumber(ARGV[6]), 1) + 1 do
    local id, login = alive[index].id, alive[index].login
    login.generation = REPLACED
    redis.call('HSET', KEYS[1], id, write_login(login))
    ended[#ended + 1] = login_record(id, login)
end
for _, id in ipairs(dropped) do
    redis.call('HDEL', KEYS[1], id)
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
live_until(now, idle, tonumber(ARGV[5]))
return ended
