-- ARGV: uid, member, lease until, the channel; of each outcome its position, attempt, and 'done', 'again' (the lease
-- begins anew) or when it is to be tried again. Returns the positions that were settled, and those that were lost.
-- Nothing if the group is gone.
local member, lease_until = ARGV[2], ARGV[3]
if not exists() then return false end
local verdicts, is_changed = {}, false
local done, done_of_key = {}, new_lists() -- forgotten together, before the neighbours of any other are looked at

local function finish(position, state)
  done[#done + 1] = position
  if state[OF_KEY] ~= '' then table.insert(done_of_key[state[OF_KEY]], position) end
end

-- The first of a key is to be anybody's; it stood in the queue of the member if another was first before.
local function let_first_be_anybodys(key)
  local first = redis.call('ZRANGE', events_of_key(key), 0, 0)[1]
  if first and take_out(member, { first }) > 0 then put_in('', first, held(first)[TIME]) end
end

local function forget_done()
  if #done == 0 then return end
  if take_out(member, done) < #done then take_out('', done) end
  call_for_all('SREM', events_of_member(member), done)
  call_for_all('HDEL', HELD, done)
  in_flight = in_flight - #done
  for key, positions in pairs(done_of_key) do
    call_for_all('ZREM', events_of_key(key), positions)
    let_first_be_anybodys(key)
  end
  done, done_of_key = {}, new_lists()
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
    is_changed = is_changed or what ~= 'again'
    if what == 'done' then
      finish(position, state)
    else
      forget_done()
      if what == 'again' then begin_anew(position, state) else fail(position, state, what) end
    end
  end
end
forget_done()
if count() > 0 and is_changed then wake(ARGV[4]) end
local settled, lost = {}, {}
for position, verdict in pairs(verdicts) do table.insert(verdict == 'lost' and lost or settled, position) end
return { table.concat(settled, ' '), table.concat(lost, ' ') }
