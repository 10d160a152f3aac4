-- Refreshes a login. The latest refresh may be repeated for a short time, and then comes to the same.
-- KEYS: logins of the user (hash)
-- ARGV: now (ms), idle lifetime (ms), login, generation, time for a repetition (ms)
-- Returns the next generation, the start and the end of the login (ms), the name of the password, and the user; nothing if there is no such login; or 'spent' if the
-- refresh has taken place before. Then the login has ended, and each further refresh returns the same until login_end.lua removes
-- the login: the reply may be lost before its tokens are revoked.
local now, idle, generation = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local login = read_login(redis.call('HMGET', KEYS[1], ARGV[3])[1])
if not is_kept(login, now, idle) or login.generation == REPLACED then
    return {}
end
if generation >= login.generation then
    -- A greater one: Redis has lost its latest writes.
    login.generation, login.refreshed = generation + 1, now
    redis.call('HSET', KEYS[1], ARGV[3], write_login(login))
    live_until(now, idle, login.ends)
elseif generation + 1 < login.generation or now >= login.refreshed + tonumber(ARGV[5]) then
    login.generation = SPENT
    redis.call('HSET', KEYS[1], ARGV[3], write_login(login))
    return { 'spent' }
end
return {
    string.format('%.0f', login.generation), string.format('%.0f', login.started), string.format('%.0f', login.ends),
    login.password, login.user
}
