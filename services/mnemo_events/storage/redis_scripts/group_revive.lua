-- ARGV: uid, now, the channel, positions. Returns those that were not held; nothing if the group is gone.
if not exists() then return false end
local revived, newest = {}, tonumber(redis.call('HGET', group, 'newest_revived') or 0)
for i = 4, #ARGV do
  if redis.call('HEXISTS', HELD, ARGV[i]) == 0 then
    hold(ARGV[i], { '', '', 0, ARGV[2], '1' })
    put_in('', ARGV[i], ARGV[2])
    revived[#revived + 1] = ARGV[i]
    newest = math.max(newest, tonumber(ARGV[i]))
  end
end
if #revived > 0 then
  redis.call('HSET', group, 'newest_revived', text(newest)) -- fresh events after it are not held already
  wake(ARGV[3])
end
return table.concat(revived, ' ')
