-- ARGV: positions, with spaces between them. Returns records of the events that are there.
local head, records = stored(DURABLE), new_records()
for place in string.gmatch(ARGV[1], '%d+') do
  local entry = tonumber(place) <= head and entry_at(place)
  if entry then add_record(records, entry) end
end
return { packed(records) }
