-- ARGV: tenant, id. Returns the definition of the group; nothing if there is none.
local uid = redis.call('HGET', base .. 'groups', ARGV[1] .. '\0' .. ARGV[2])
return uid and redis.call('HGET', base .. 'group:' .. uid, 'definition')
