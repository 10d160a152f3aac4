-- Returns the positions of channels, and creates those of channels that have none.
-- KEYS: for each channel its stream and its meta hash
-- ARGV: history size, history TTL (ms), meta TTL (ms), epoch of those that have none
-- Returns for each channel the epoch, and of the newest publication that it ever had the offset and the time (empty if unknown); or an
-- error: keys of one channel with another type do not affect the other channels.
local positions = {}
for key = 1, #KEYS, 2 do
    local is_open, epoch, top, time = pcall(open, KEYS[key], KEYS[key + 1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
    if is_open then
        positions[#positions + 1] = { epoch, text(top), time }
    else
        -- Redis 7 raises tables, older ones texts.
        positions[#positions + 1] = redis.error_reply(type(epoch) == 'table' and epoch.err or epoch)
    end
end
return positions
