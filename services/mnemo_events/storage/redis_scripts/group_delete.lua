-- ARGV: uid, tenant, id, the channel. Returns whether the group was there.
if not exists() then return 0 end
let_go()
redis.call('UNLINK', group)
redis.call('HDEL', base .. 'groups', ARGV[2] .. '\0' .. ARGV[3])
redis.call('ZREM', base .. 'groups:' .. ARGV[2], ARGV[3])
wake(ARGV[4])
return 1
