-- ARGV: uid, member, limit, now, lease until, how many may wait, the channel; if there are fresh events: after, upto,
-- and of each its position and key. Returns the position of the group, when something is due next ('' if nothing is),
-- and of each event given its position, attempt and '1' if it is a replay. Nothing if the group is gone.
local member, limit, lease_until, most_waiting = ARGV[2], tonumber(ARGV[3]), ARGV[5], tonumber(ARGV[6])
if not exists() then return false end
now = tonumber(ARGV[4])
local given, given_count = {}, 0

local function give(position, state)
  local key, before = state[OF_KEY], state[MEMBER]
  if before ~= '' then -- its lease is over
    take_back_after(position, key, before)
    leave_member(position, state)
  end
  state[MEMBER], state[ATTEMPTS], state[TIME] = member, state[ATTEMPTS] + 1, lease_until
  hold(position, state)
  redis.call('SADD', events_of_member(member), position)
  in_flight = in_flight + 1
  put_in(queue_of(position, key, member), position, lease_until)
  local following = neighbour(position, key, 1)
  if following then put_in(member, following, held(following)[TIME]) end
  given_count = given_count + 1
  given[given_count] = position .. ' ' .. text(state[ATTEMPTS]) .. ' ' .. state[REPLAYED]
end

local function look_what_is_due(queue)
  for _, position in ipairs(redis.call('ZRANGEBYSCORE', later(queue), '-inf', ARGV[4])) do
    put_in(queue, position, AT_ONCE)
  end
end

local function oldest_due()
  local anybodys = redis.call('ZRANGE', due(''), 0, 0)[1]
  local own = redis.call('ZRANGE', due(member), 0, 0)[1]
  if anybodys and (not own or tonumber(anybodys) < tonumber(own)) then return '', anybodys end
  return member, own
end

local function give_what_is_due()
  while given_count < limit do
    local queue, position = oldest_due()
    if not position then return end
    local state = held(position)
    if state[TIME] ~= AT_ONCE and tonumber(state[TIME]) > now then -- the clock of another was ahead of ours
      put_in(queue, position, state[TIME])
    else
      give(position, state)
    end
  end
end

-- Whether the member has an event of a key, of which none waits, for longer than its lease. The limit may leave some.
local function keeps_too_long(key)
  for _, position in ipairs(given_count == limit and redis.call('ZRANGE', events_of_key(key), 0, -1) or {}) do
    if tonumber(held(position)[TIME]) <= now then return true end
  end
  return false
end

-- What becomes of fresh events. It is written when it is known of all: nothing that they come after depends on it.
local new_held, new_of_member, new_of_key, new_later, new_due = {}, {}, new_lists(), new_lists(), new_lists()
local last_holders = {} -- of keys: who has the last event, '' if it waits, false if the group holds none

local function last_holder(key)
  if key == '' then return false end
  if last_holders[key] == nil then
    local last = redis.call('ZRANGE', events_of_key(key), -1, -1)[1]
    last_holders[key] = last and held(last)[MEMBER] or false
  end
  return last_holders[key]
end

local function take_fresh(position, key, holder, attempts, time)
  add_pair(new_held, position, cmsgpack.pack({ key, holder, attempts, time, '0' }))
  if key ~= '' then
    add_pair(new_of_key[key], position, position)
    last_holders[key] = holder
  end
end

local function give_fresh(position, key, holder)
  take_fresh(position, key, member, 1, lease_until)
  new_of_member[#new_of_member + 1] = position
  add_pair(new_later[holder and member or ''], lease_until, position)
  in_flight = in_flight + 1
  given_count = given_count + 1
  given[given_count] = position .. ' 1 0'
end

local function write_fresh()
  call_for_all('HSET', HELD, new_held)
  call_for_all('SADD', events_of_member(member), new_of_member)
  for key, positions in pairs(new_of_key) do call_for_all('ZADD', events_of_key(key), positions) end
  for queue, times in pairs(new_later) do call_for_all('ZADD', later(queue), times) end
  for queue, positions in pairs(new_due) do call_for_all('ZADD', due(queue), positions) end
end

-- Returns the position of the group after it, and whether others can be given what was put aside.
local function look_at_fresh(waiting)
  local reached, for_others = ARGV[8], false
  local newest_revived = tonumber(redis.call('HGET', group, 'newest_revived') or 0)
  for i = 10, #ARGV, 2 do
    local position, key = ARGV[i], ARGV[i + 1]
    if waiting >= most_waiting then return reached, for_others end
    if tonumber(position) > newest_revived or redis.call('HEXISTS', HELD, position) == 0 then
      local holder = last_holder(key)
      local is_free = not holder or holder == member and not keeps_too_long(key)
      if is_free and given_count == limit then return reached, for_others end
      if is_free then
        give_fresh(position, key, holder)
      else
        take_fresh(position, key, '', 0, AT_ONCE)
        waiting = waiting + 1
        if holder ~= '' then
          add_pair(new_due[holder], position, position)
          for_others = for_others or holder ~= member
        end
      end
    end
    reached = position
  end
  return ARGV[9], for_others
end

local function due_next()
  local earliest = ''
  for _, queue in ipairs({ '', member }) do
    if redis.call('ZCARD', due(queue)) > 0 then return ARGV[4] end
    local position = redis.call('ZRANGE', later(queue), 0, 0)[1]
    local time = position and held(position)[TIME]
    if time and (earliest == '' or tonumber(time) < tonumber(earliest)) then earliest = time end
  end
  return earliest
end

look_what_is_due('')
look_what_is_due(member)
give_what_is_due()
local position, waiting = redis.call('HGET', group, 'position'), count()
in_flight = 0
if ARGV[8] and tonumber(ARGV[8]) == tonumber(position) then
  local reached, for_others = look_at_fresh(waiting)
  write_fresh()
  count()
  position = reached
  redis.call('HSET', group, 'position', position)
  if for_others then wake(ARGV[7]) end
end
return { position, due_next(), table.concat(given, ' ') }
