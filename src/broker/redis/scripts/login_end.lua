-- Ends logins.
-- KEYS: logins of the user (hash)
-- ARGV: 'login' and a login; 'before' and the time (ms) before which they were started; 'password' and the name of the only
-- password whose logins go on; or 'ended' for those that login_start.lua and login_refresh.lua have marked
-- Returns each with its latest refresh (ms) and its user.
local ended = selected_logins(ARGV[1], ARGV[2])
for _, login in ipairs(ended) do
    redis.call('HDEL', KEYS[1], login[1])
end
return ended
