-- ARGV: a time, or ''; how many to keep, or ''; how many bytes of data to keep, or ''; limit. Returns how many of the
-- oldest events of no space were removed: those stored before the time, those older than the newest ones to keep, and
-- those older than the newest that have no more data together.
local time, keep, keep_bytes, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local surplus = keep and redis.call('ZCARD', NO_SPACE) - keep or 0
local removed, newest = 0, nil
for index, place in ipairs(redis.call('ZRANGE', NO_SPACE, 0, limit - 1)) do
  local entry = entry_at(place)
  local is_old = time and tonumber(entry[2][STORED_AT]) < time
  if not is_old and index > surplus and not (keep_bytes and stored(BYTES_OF_NO_SPACE) > keep_bytes) then break end
  forget(entry)
  removed, newest = index, place
end
if newest then redis.call('SET', TRIMMED, newest) end
return removed
