-- What scripts about the log have in common.
local LOG, KEYS_OF_EVENTS, DATA, ENDS = base .. 'log', base .. 'keys', base .. 'data', base .. 'ends'
local HEAD, DURABLE, LATEST, TRIMMED = base .. 'head', base .. 'durable', base .. 'latest', base .. 'trimmed'
local NO_SPACE, BYTES_OF_NO_SPACE = base .. 'space:', base .. 'bytes_of_no_space'

local function stored(name) return tonumber(redis.call('GET', name) or '0') end

-- The position of an entry of the stream, as text.
local function position_of(entry) return string.sub(entry[1], 1, -3) end

-- The entry at a position (text), or nil.
local function entry_at(position)
  return redis.call('XRANGE', LOG, position .. '-0', position .. '-0', 'COUNT', 1)[1]
end

-- An entry's fields are, in this order: k (tenant, source and id), s (space), a (attributes), t (stored at). They stand
-- at the even places of entry[2].
local KEY, SPACE, ATTRIBUTES, STORED_AT = 2, 4, 6, 8

-- Removes the payload of an event of a space or, with '', of none; returns whether there was one.
local function empty(position, space)
  if space == '' then redis.call('DECRBY', BYTES_OF_NO_SPACE, redis.call('HSTRLEN', DATA, position)) end
  return redis.call('HDEL', DATA, position)
end

local function forget(entry)
  local position, fields = position_of(entry), entry[2]
  redis.call('XDEL', LOG, entry[1])
  redis.call('HDEL', KEYS_OF_EVENTS, fields[KEY])
  empty(position, fields[SPACE])
  redis.call('ZREM', base .. 'space:' .. fields[SPACE], position)
  if fields[SPACE] ~= '' and redis.call('HGET', ENDS, fields[SPACE]) == position then
    redis.call('HDEL', ENDS, fields[SPACE])
  end
end

-- Records of entries for the answer: their sizes as text, and their bytes in one piece.
local function new_records() return { count = 0, bytes = 0, sizes = {}, parts = {} } end

local function add_record(records, entry)
  local fields = entry[2]
  local record = fields[KEY] .. fields[SPACE] .. fields[ATTRIBUTES] .. fields[STORED_AT]
  records.count = records.count + 1
  records.bytes = records.bytes + #record
  records.parts[records.count] = record
  records.sizes[records.count] = table.concat(
    { position_of(entry), #fields[KEY], #fields[SPACE], #fields[ATTRIBUTES], #fields[STORED_AT] }, ' ')
end

local function packed(records) return table.concat(records.sizes, ' '), table.concat(records.parts) end
