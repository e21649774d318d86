-- ARGV: stored at, '1' if what is written is on disk when the answer leaves, the channel; of each event the sizes of
-- its key, space, attributes and payload, and whether it ends the space (1); and these in one piece. Returns the head
-- and the positions.
local stored_at, at_once, channel = ARGV[1], ARGV[2] == '1', ARGV[3]
local before = stored(HEAD)
local head, latest, places = before, redis.call('GET', LATEST), {}
if latest and tonumber(latest) > tonumber(stored_at) then stored_at = latest end
local start = 1
local new_places, new_data, new_in_space, new_bytes = {}, {}, new_lists(), 0 -- written when all are known
local place_of_key, end_of_space = {}, {} -- what this batch has, and what was asked for

local function taken(size)
  local piece = string.sub(ARGV[5], start, start + size - 1)
  start = start + size
  return piece
end

local function end_of(space)
  if space == '' then return false end
  if end_of_space[space] == nil then end_of_space[space] = redis.call('HGET', ENDS, space) end
  return end_of_space[space]
end

for key_size, space_size, attributes_size, size, ends in string.gmatch(ARGV[4], '(%d+) (%d+) (%d+) (%d+) (%d)') do
  local key, space, attributes, data = taken(key_size), taken(space_size), taken(attributes_size), taken(size)
  local place = place_of_key[key] or redis.call('HGET', KEYS_OF_EVENTS, key) or end_of(space)
  if not place then
    head = head + 1
    place = text(head)
    redis.call('XADD', LOG, place .. '-0', 'k', key, 's', space, 'a', attributes, 't', stored_at)
    place_of_key[key] = place
    add_pair(new_places, key, place)
    add_pair(new_in_space[space], place, place)
    if data ~= '' then add_pair(new_data, place, data) end
    if space == '' then new_bytes = new_bytes + #data end
    if ends == '1' and space ~= '' then
      redis.call('HSET', ENDS, space, place)
      end_of_space[space] = place
    end
  end
  places[#places + 1] = place
end
if head > before then
  call_for_all('HSET', KEYS_OF_EVENTS, new_places)
  call_for_all('HSET', DATA, new_data)
  for space, scored in pairs(new_in_space) do call_for_all('ZADD', base .. 'space:' .. space, scored) end
  redis.call('INCRBY', BYTES_OF_NO_SPACE, text(new_bytes))
  redis.call('SET', LATEST, stored_at)
  redis.call('SET', HEAD, text(head))
  if at_once then
    redis.call('SET', DURABLE, text(head))
    redis.call('PUBLISH', channel, text(head))
  end
end
return { text(head), table.concat(places, ' ') }
