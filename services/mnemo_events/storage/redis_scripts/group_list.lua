-- ARGV: tenant, an id, limit. Returns the definitions of the groups whose ids come after it.
local found = {}
local ids = redis.call('ZRANGEBYLEX', base .. 'groups:' .. ARGV[1], '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  local uid = redis.call('HGET', base .. 'groups', ARGV[1] .. '\0' .. id)
  found[#found + 1] = redis.call('HGET', base .. 'group:' .. uid, 'definition')
end
return found
