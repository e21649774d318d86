-- What scripts about one group have in common. ARGV[1] is its uid.
--
-- An event that the group holds is with a member or waits; its state is a list of these fields. Of a key other than ''
-- the events with a member come first, all with the same member, and those that wait come after them. The first of a
-- key (and each of the key '') may be given to anybody when its time has come, and stands in the queue ''. Of the
-- others those that are with the member, and the first that waits, may be given to that member only, and stand in its
-- queue. The rest stands in no queue. A queue is two sorted sets: events by the time they are due at, and by position
-- once that has come.
local group = base .. 'group:' .. ARGV[1]
local HELD = group .. ':held'
local OF_KEY, MEMBER, ATTEMPTS, TIME, REPLAYED = 1, 2, 3, 4, 5
local AT_ONCE = '-inf'
local now -- the time of a claim; other scripts have none
local in_flight = 0 -- how many more are with members than before

local function exists() return redis.call('EXISTS', group) == 1 end

local function held(position)
  local state = redis.call('HGET', HELD, position)
  return state and cmsgpack.unpack(state)
end

local function hold(position, state) redis.call('HSET', HELD, position, cmsgpack.pack(state)) end

local function later(queue) return group .. ':later:' .. queue end

local function due(queue) return group .. ':due:' .. queue end

local function events_of_key(key) return group .. ':key:' .. key end

local function events_of_member(member) return group .. ':of:' .. member end

-- Take events out of a queue; how many stood there.
local function take_out(queue, positions)
  local taken = call_for_all('ZREM', later(queue), positions)
  return taken == #positions and taken or taken + call_for_all('ZREM', due(queue), positions)
end

local function put_in(queue, position, time)
  if time == AT_ONCE or (now and tonumber(time) <= now) then
    redis.call('ZREM', later(queue), position)
    redis.call('ZADD', due(queue), position, position)
  else
    redis.call('ZREM', due(queue), position)
    redis.call('ZADD', later(queue), time, position)
  end
end

-- The neighbours of an event in its key; nil at the ends and for the key ''.
local function neighbour(position, key, distance)
  if key == '' then return nil end
  local place = redis.call('ZRANK', events_of_key(key), position) + distance
  return place >= 0 and redis.call('ZRANGE', events_of_key(key), place, place)[1] or nil
end

-- The queue an event stands in that is with `member`, or waits behind one that is.
local function queue_of(position, key, member) return neighbour(position, key, -1) and member or '' end

local function leave_member(position, state)
  redis.call('SREM', events_of_member(state[MEMBER]), position)
  state[MEMBER] = ''
  in_flight = in_flight - 1
end

local function wait(position, state, time)
  leave_member(position, state)
  state[TIME] = time
  hold(position, state)
end

-- Take back from a member what follows an event of its in the key. Returns the positions.
local function take_back_after(position, key, member)
  local taken = {}
  while true do
    local following = neighbour(position, key, #taken + 1)
    if not following then return taken end
    take_out(member, { following }) -- the first that waits stands there too
    local state = held(following)
    if state[MEMBER] == '' then return taken end
    state[ATTEMPTS] = state[ATTEMPTS] - 1
    wait(following, state, AT_ONCE)
    taken[#taken + 1] = following
  end
end

-- Write down how many are with members. Returns how many wait.
local function count()
  return redis.call('HLEN', HELD) - redis.call('HINCRBY', group, 'in_flight', in_flight)
end

local function wake(channel) redis.call('PUBLISH', channel, ARGV[1]) end

-- Let go of everything, and of what says who has it.
local function let_go()
  local states = redis.call('HGETALL', HELD)
  for i = 1, #states, 2 do
    local state = cmsgpack.unpack(states[i + 1])
    redis.call('UNLINK', events_of_key(state[OF_KEY]))
    if state[MEMBER] ~= '' then
      redis.call('UNLINK', events_of_member(state[MEMBER]), later(state[MEMBER]), due(state[MEMBER]))
    end
  end
  redis.call('UNLINK', HELD, later(''), due(''))
end
