-- ARGV: uid, member, '1' if the attempts count, the channel. Returns how many events the member had; nothing if the
-- group is gone.
local member = ARGV[2]
if not exists() then return false end
local positions = redis.call('SMEMBERS', events_of_member(member))
redis.call('UNLINK', later(member), due(member))
for _, position in ipairs(positions) do
  local state = held(position)
  if ARGV[3] ~= '1' then state[ATTEMPTS] = state[ATTEMPTS] - 1 end
  wait(position, state, AT_ONCE)
  if not neighbour(position, state[OF_KEY], -1) then put_in('', position, AT_ONCE) end
end
count()
if #positions > 0 then wake(ARGV[4]) end
return #positions
