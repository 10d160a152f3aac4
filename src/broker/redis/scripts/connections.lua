-- Counts the connections of users on all instances. Those that are asked for are allowed up to a limit, and counted.
-- KEYS: for each user its connections (hash: instance, number)
-- ARGV: instance, lifetime (ms), maximum number, number of instances that are gone, these, then for each user the connections
-- that the instance has, and those that it asks for
-- Returns for each user how many are allowed, and if those are not all, the other instances that have some.
local instance, lifetime, limit, gone = ARGV[1], ARGV[2], tonumber(ARGV[3]), {}
for index = 5, 4 + ARGV[4] do
    gone[ARGV[index]] = true
end

local function count(key, counted, asked)
    local others, instances, cursor = 0, {}, '0'
    repeat
        local page = redis.call('HSCAN', key, cursor, 'COUNT', 1000)
        cursor = page[1]
        for index = 1, #page[2], 2 do
            if gone[page[2][index]] then
                redis.call('HDEL', key, page[2][index])
            elseif page[2][index] ~= instance then
                others = others + tonumber(page[2][index + 1])
                instances[#instances + 1] = page[2][index]
            end
        end
    until cursor == '0'
    local allowed = math.max(math.min(asked, limit - others - counted), 0)
    if counted + allowed > 0 then
        redis.call('HSET', key, instance, counted + allowed)
        redis.call('PEXPIRE', key, lifetime)
    else
        redis.call('HDEL', key, instance)
    end
    return { allowed, unpack(allowed < asked and instances or {}) }
end

local reply = {}
for index, key in ipairs(KEYS) do
    local at = 3 + ARGV[4] + 2 * index
    reply[index] = count(key, tonumber(ARGV[at]), tonumber(ARGV[at + 1]))
end
return reply
