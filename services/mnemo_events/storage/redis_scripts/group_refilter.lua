-- ARGV: uid, definition. Returns 1; nothing if the group is gone.
if not exists() then return false end
redis.call('HSET', group, 'definition', ARGV[2])
return 1
