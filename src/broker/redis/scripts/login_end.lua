-- Ends logins.
-- KEYS: logins of the user (hash)
-- ARGV: 'login' and a login; 'before' and the time (ms) before which they were started; or 'password' and the name of the only
-- password whose logins go on
-- Returns each with its latest refresh (ms) and its user.
local ended = {}
each_login(function(id, login)
    local is_selected = ARGV[1] == 'login' and id == ARGV[2]
        or login and ARGV[1] == 'before' and login.started < tonumber(ARGV[2])
        or login and ARGV[1] == 'password' and login.password ~= ARGV[2]
    if is_selected then
        ended[#ended + 1] = ended_login(id, login)
    end
end)
for _, login in ipairs(ended) do
    redis.call('HDEL', KEYS[1], login[1])
end
return ended
