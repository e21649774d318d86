-- What every script begins with. KEYS[1] is what the names of all keys begin with; its hash tag keeps them on one node.
local base = KEYS[1]
if redis.replicate_commands then redis.replicate_commands() end -- before Redis 7 the file would get the script instead

local function text(number) return string.format('%.0f', number) end

-- Run a command once for many arguments, or as often as it takes: Lua passes on some thousands at once. What is run for
-- each event on its own costs several times as much, here and in the append-only file.
local MOST_AT_ONCE = 1000 -- an even number, for those that take pairs
local function call_for_all(command, name, arguments)
  local sum = 0
  for first = 1, #arguments, MOST_AT_ONCE do
    local last = math.min(first + MOST_AT_ONCE - 1, #arguments)
    sum = sum + redis.call(command, name, unpack(arguments, first, last))
  end
  return sum
end

-- Lists by their names, which are there as soon as they are asked for.
local function new_lists()
  return setmetatable({}, {
    __index = function(lists, name)
      local list = {}
      rawset(lists, name, list)
      return list
    end,
  })
end

local function add_pair(list, first, second)
  list[#list + 1] = first
  list[#list + 1] = second
end

