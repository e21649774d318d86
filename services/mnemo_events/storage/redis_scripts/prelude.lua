-- What every script begins with. KEYS[1] is what the names of all keys begin with; its hash tag keeps them on one node.
local base = KEYS[1]
if redis.replicate_commands then redis.replicate_commands() end -- before Redis 7 the file would get the script instead

local function text(number) return string.format('%.0f', number) end

