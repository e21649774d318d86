-- ARGV: after, entries at most, bytes at most; a space, if only its events are wanted.
-- Returns the head, the position up to which the log was looked at, the newest one that was trimmed, and records.
local after, limit, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local head, records = stored(DURABLE), new_records()
local upto = after

local function scan_space(space)
  local events = base .. 'space:' .. space
  local places = redis.call('ZRANGEBYSCORE', events, '(' .. text(after), text(head), 'LIMIT', 0, limit)
  for _, place in ipairs(places) do
    if records.bytes >= bytes then return end
    add_record(records, entry_at(place))
    upto = tonumber(place)
  end
  if #places < limit then upto = head end
end

local function scan_log()
  local step = 16 -- grows, so that few are read too many where entries are large
  while upto < head and records.count < limit and records.bytes < bytes do
    local wanted = math.min(step, limit - records.count)
    local entries = redis.call('XRANGE', LOG, text(upto + 1) .. '-0', text(head) .. '-0', 'COUNT', wanted)
    for _, entry in ipairs(entries) do add_record(records, entry) end
    upto = #entries < wanted and head or tonumber(position_of(entries[#entries]))
    step = math.min(step * 2, 128)
  end
end

if head > after then
  if ARGV[4] then scan_space(ARGV[4]) else scan_log() end
end
return { text(head), text(upto), text(stored(TRIMMED)), packed(records) }
