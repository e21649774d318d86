-- ARGV: keys of events. Returns how many had a payload.
local redacted = 0
for _, key in ipairs(ARGV) do
  local place = redis.call('HGET', KEYS_OF_EVENTS, key)
  if place then redacted = redacted + empty(place, redis.call('ZSCORE', NO_SPACE, place) and '' or nil) end
end
return redacted
