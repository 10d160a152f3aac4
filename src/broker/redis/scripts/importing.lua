-- Runs a script on a server that is importing the slot of its keys, after the old master has answered ASK: it has none of them. An
-- importing server runs a script only if all its KEYS exist there, and some may exist nowhere, so KEYS has only the first.
-- KEYS: the first key of the script
-- ARGV: number of the script's KEYS, its other KEYS, its ARGV
-- Returns what the script returns, and then the shard channel and the message of each of its announcements: the old master has
-- the subscribers until the move ends.
local call, announcements = redis.call, {}
local redis = setmetatable({
    call = function(command, ...)
        if command == 'SPUBLISH' then
            announcements[#announcements + 1], announcements[#announcements + 2] = ...
        end
        return call(command, ...)
    end,
}, { __index = redis })

local function run(KEYS, ARGV)
-- SCRIPT
end

local keys, arguments = { KEYS[1] }, {}
local count = tonumber(ARGV[1])
for index = 2, #ARGV do
    if index <= count then
        keys[index] = ARGV[index]
    else
        arguments[#arguments + 1] = ARGV[index]
    end
end
return { run(keys, arguments) or false, unpack(announcements) }
