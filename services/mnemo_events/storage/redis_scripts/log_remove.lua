-- ARGV: space, tenant, id to keep, limit, after, places to look at. Returns how many were removed, and the position to
-- go on after; '' if there are no more.
local space, tenant, keep_id, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local removed, upto = 0, ''
local places = redis.call('ZRANGEBYSCORE', base .. 'space:' .. space, '(' .. ARGV[5], '+inf', 'LIMIT', 0, ARGV[6])
for _, place in ipairs(places) do
  if removed == limit then return { removed, upto } end
  local entry = entry_at(place)
  local whose, id = string.match(entry[2][KEY], '^(.-)%z.*%z(.-)$')
  if whose == tenant and id ~= keep_id then
    forget(entry)
    removed = removed + 1
  end
  upto = place
end
return { removed, #places < tonumber(ARGV[6]) and '' or upto }
