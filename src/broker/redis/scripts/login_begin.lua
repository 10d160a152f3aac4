-- Starts a login attempt, unless earlier failures delay it. It counts as failed until login_forgive.lua.
-- KEYS: failures of the user from the address, of the address, of the user (strings)
-- ARGV: lifetime (ms), first delay (ms), maximum delay (ms), failures without a delay of the user from the address, of the
-- address, failures of a user above which it has one without a delay from each address
-- Returns 1 or 0 for whether it may be attempted; the failures and the delay (ms) of the user from the address, and of the
-- address; the failures of the user; the earliest time for the next attempt of the address, and the one before (ms).
local lifetime, first, maximum = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local pair, address, user = read_failures(KEYS[1]), read_failures(KEYS[2]), read_failures(KEYS[3])
local before = address.earliest

-- The clock of another Redis may be behind: then no delay is longer than the maximum either.
local function wait(record)
    return math.max(math.min(record.earliest - now, maximum), 0)
end

local function fail(record, free)
    record.failures = record.failures + 1
    if free and record.failures >= free then
        record.earliest = now + math.min(first * 2 ^ math.min(record.failures - free, 31), maximum)
    end
    write_failures(record, lifetime)
end

local is_allowed = wait(pair) == 0 and wait(address) == 0
if is_allowed then
    fail(user)
    fail(pair, user.failures > tonumber(ARGV[6]) and 1 or tonumber(ARGV[4]))
    fail(address, tonumber(ARGV[5]))
end
return {
    is_allowed and 1 or 0, pair.failures, wait(pair), address.failures, wait(address), user.failures,
    string.format('%.0f', address.earliest), string.format('%.0f', before)
}
