-- ARGV: a time, or ''; how many to keep, or ''; limit. Returns how many of the oldest events of no space were removed:
-- those stored before the time, and those older than the newest ones to keep.
local time, keep, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local NO_SPACE = base .. 'space:'
local surplus = keep and redis.call('ZCARD', NO_SPACE) - keep or 0
local removed, newest = 0, nil
for index, place in ipairs(redis.call('ZRANGE', NO_SPACE, 0, limit - 1)) do
  local entry = entry_at(place)
  if index > surplus and not (time and tonumber(entry[2][STORED_AT]) < time) then break end
  forget(entry)
  removed, newest = index, place
end
if newest then redis.call('SET', TRIMMED, newest) end
return removed
