-- ARGV: uid, member, lease until, the channel; of each outcome its position, attempt, and 'done', 'again' (the lease
-- begins anew) or when it is to be tried again. Returns the positions that were settled, and those that were lost.
-- Nothing if the group is gone.
local member, lease_until = ARGV[2], ARGV[3]
if not exists() then return false end
local verdicts, is_changed = {}, false

local function finish(position, state)
  local key, queue = state[OF_KEY], queue_of(position, state[OF_KEY], member)
  local following = neighbour(position, key, 1)
  take_out(queue, position)
  leave_member(position, state)
  redis.call('HDEL', HELD, position)
  if key ~= '' then redis.call('ZREM', events_of_key(key), position) end
  if following and queue == '' then -- it is the first now
    take_out(member, following)
    put_in('', following, held(following)[TIME])
  end
end

local function fail(position, state, retry_at)
  for _, following in ipairs(take_back_after(position, state[OF_KEY], member)) do verdicts[following] = 'lost' end
  wait(position, state, retry_at)
  put_in(queue_of(position, state[OF_KEY], member), position, retry_at)
end

local function begin_anew(position, state)
  state[TIME] = lease_until
  hold(position, state)
  put_in(queue_of(position, state[OF_KEY], member), position, lease_until)
end

for i = 5, #ARGV, 3 do
  local position, attempt, what = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local state = held(position)
  if not state or state[MEMBER] ~= member or state[ATTEMPTS] ~= attempt then
    verdicts[position] = 'lost'
  else
    verdicts[position] = 'settled'
    if what == 'again' then
      begin_anew(position, state)
    else
      is_changed = true
      if what == 'done' then finish(position, state) else fail(position, state, what) end
    end
  end
end
if count() > 0 and is_changed then wake(ARGV[4]) end
local settled, lost = {}, {}
for position, verdict in pairs(verdicts) do table.insert(verdict == 'lost' and lost or settled, position) end
return { table.concat(settled, ' '), table.concat(lost, ' ') }
