-- Finds logins.
-- KEYS: logins of the user (hash)
-- ARGV: which ones, as for login_end.lua
-- Returns each with its latest refresh (ms) and its user.
return selected_logins(ARGV[1], ARGV[2])
