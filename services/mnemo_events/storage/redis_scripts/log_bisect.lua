-- ARGV: a time. Returns the position before the first event that was stored then or later; the head if there is none.
local time, head = tonumber(ARGV[1]), stored(DURABLE)
local low, high, first = 1, head + 1, head + 1
while low < high do
  local middle = math.floor((low + high) / 2)
  local entry = redis.call('XRANGE', LOG, text(middle) .. '-0', text(head) .. '-0', 'COUNT', 1)[1]
  if not entry then
    high = middle
  elseif tonumber(entry[2][STORED_AT]) < time then
    low = tonumber(position_of(entry)) + 1
  else
    first = tonumber(position_of(entry))
    high = middle
  end
end
return text(first - 1)
