-- The logins of one user: a hash. A record is the generation, the milliseconds of start, latest refresh and end, the name of the
-- password, and the user. Of a login that has ended, but whose tokens may not be revoked yet, the generation is SPENT or REPLACED:
-- greater than any refresh token has.
local SPENT, REPLACED = 2 ^ 33, 2 ^ 34

local function read_login(text)
    local generation, started, refreshed, ends, password, user =
        string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
    return generation and {
        generation = tonumber(generation), started = tonumber(started), refreshed = tonumber(refreshed),
        ends = tonumber(ends), password = password, user = user
    }
end

local function write_login(login)
    return string.format('%.0f %.0f %.0f %.0f %s %s', login.generation, login.started, login.refreshed, login.ends,
        login.password, login.user)
end

-- Returns whether a refresh token of the login could still be used, if nothing else had ended it.
local function is_kept(login, now, idle)
    return login and now < login.ends and now < login.refreshed + idle
end

local function has_ended(login)
    return login.generation >= SPENT
end

local function each_login(visit)
    local cursor = '0'
    repeat
        local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', 1000)
        cursor = page[1]
        for index = 1, #page[2], 2 do
            visit(page[2][index], read_login(page[2][index + 1]))
        end
    until cursor == '0'
end

local function login_record(id, login)
    return { id, string.format('%.0f', login and login.refreshed or 0), login and login.user or '' }
end

-- Returns the logins that are selected as login_end.lua says.
local function selected_logins(kind, value)
    local selected = {}
    each_login(function(id, login)
        local is_selected = kind == 'login' and id == value
            or login and kind == 'before' and login.started < tonumber(value)
            or login and kind == 'password' and login.password ~= value
            or login and kind == 'ended' and has_ended(login)
        if is_selected then
            selected[#selected + 1] = login_record(id, login)
        end
    end)
    return selected
end

-- Lets the hash live as long as the login may.
local function live_until(now, idle, ends)
    local left = math.max(math.min(idle, ends - now), 1)
    if redis.call('PTTL', KEYS[1]) < left then
        redis.call('PEXPIRE', KEYS[1], string.format('%.0f', left))
    end
end

