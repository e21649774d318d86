-- ARGV: uid. Returns the position, how many are with members, and how many wait; nothing if the group is gone.
if not exists() then return false end
local in_flight = tonumber(redis.call('HGET', group, 'in_flight'))
return { redis.call('HGET', group, 'position'), in_flight, redis.call('HLEN', HELD) - in_flight }
