-- Undoes a login attempt whose password was right, and forgets the failures of the user from the address. Those of the address
-- for other users remain, and so does a delay that a later attempt has set.
-- KEYS: failures of the user from the address, of the address, of the user (strings)
-- ARGV: the earliest time for the next attempt of the address that the attempt has set, and the one before (ms)
-- Returns OK.
redis.call('DEL', KEYS[1])
for index = 2, 3 do
    local record, left = read_failures(KEYS[index]), redis.call('PTTL', KEYS[index])
    record.failures = record.failures - 1
    if index == 2 and record.earliest == tonumber(ARGV[1]) then
        record.earliest = tonumber(ARGV[2])
    end
    if record.failures <= 0 and record.earliest <= now then
        redis.call('DEL', KEYS[index])
    elseif left > 0 then
        write_failures(record, left)
    end
end
return redis.status_reply('OK')
