-- ARGV: uid, tenant, id, definition, position. Returns the definition of the group of that name.
local name, names = ARGV[2] .. '\0' .. ARGV[3], base .. 'groups'
local uid = redis.call('HGET', names, name)
if uid then return redis.call('HGET', base .. 'group:' .. uid, 'definition') end
redis.call('HSET', names, name, ARGV[1])
redis.call('ZADD', names .. ':' .. ARGV[2], 0, ARGV[3])
redis.call('HSET', base .. 'group:' .. ARGV[1], 'definition', ARGV[4], 'position', ARGV[5], 'in_flight', 0)
return ARGV[4]
