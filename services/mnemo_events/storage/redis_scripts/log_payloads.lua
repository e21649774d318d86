-- ARGV: bytes after which to stop; positions, with spaces between them. Returns the newest position that was trimmed,
-- how many bytes each payload has, -1 for an event that is gone, and the payloads in one piece. At least one is
-- returned, maybe not all.
local budget, bytes, sizes, parts = tonumber(ARGV[1]), 0, {}, {}
for place in string.gmatch(ARGV[2], '%d+') do
  local data = redis.call('HGET', DATA, place)
  if not data and not entry_at(place) then
    sizes[#sizes + 1] = -1
  else
    data = data or ''
    bytes = bytes + #data
    sizes[#sizes + 1], parts[#parts + 1] = #data, data
    if bytes >= budget then break end
  end
end
return { text(stored(TRIMMED)), table.concat(sizes, ' '), table.concat(parts) }
