-- Makes everything that is stored older, as if time had passed: the tests need not wait.
-- KEYS: none; it changes all keys with the prefix
-- ARGV: the prefix, the time (ms)
local by = tonumber(ARGV[2])
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
    local left = redis.call('PTTL', key)
    local kind = redis.call('TYPE', key).ok
    if left >= 0 and left <= by then
        redis.call('DEL', key)
    else
        if kind == 'stream' then
            -- History: the field `t` is the time when the entry was stored.
            local entries = redis.call('XRANGE', key, '-', '+')
            redis.call('XTRIM', key, 'MAXLEN', '0')
            redis.call('DEL', key)
            for _, entry in ipairs(entries) do
                local fields = entry[2]
                fields[2] = string.format('%.0f', fields[2] - by)
                redis.call('XADD', key, entry[1], unpack(fields))
            end
        elseif kind == 'string' and string.find(key, ':{login-failures}:', 1, true) then
            -- Failed logins: the second number is the earliest time for the next attempt.
            local failures, earliest = string.match(redis.call('GET', key), '^(%d+) (%d+)$')
            redis.call('SET', key, string.format('%s %.0f', failures, math.max(earliest - by, 0)), 'KEEPTTL')
        elseif kind == 'hash' then
            -- Position: the field `x` is the time when its lifetime was renewed.
            local renewed = redis.call('HGET', key, 'x')
            if renewed then
                redis.call('HSET', key, 'x', string.format('%.0f', renewed - by))
            end
        elseif kind == 'zset' then
            -- Presence: the scores are the times when entries expire.
            for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
                redis.call('ZINCRBY', key, -by, member)
            end
        end
        if left >= 0 then
            redis.call('PEXPIRE', key, string.format('%.0f', left - by))
        end
    end
end
