-- ARGV: uid, position, the channel. Returns 1; nothing if the group is gone.
if not exists() then return false end
let_go()
redis.call('HSET', group, 'position', ARGV[2], 'in_flight', 0)
wake(ARGV[3])
return 1
