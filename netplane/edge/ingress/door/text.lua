-- Read the values of maps. They are the controller's: nothing of a user's is ever run.
-- A value is fields joined by "&", each name=part=part..., with every part percent-encoded; a list of such by "|".

local M = {}
local CACHED_MOST = 20000

function M.decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

function M.split(text, separator)
  local parts = {}
  for part in (text .. separator):gmatch("(.-)%" .. separator) do parts[#parts + 1] = part end
  return parts
end

-- What was read before is not read again.
function M.cached(read)
  local found, count = {}, 0
  return function(text)
    local value = found[text]
    if value == nil then
      if count >= CACHED_MOST then found, count = {}, 0 end
      value, count = read(text), count + 1
      found[text] = value
    end
    return value
  end
end

-- name -> list of {part, part, ...}
local function read_fields(text)
  local fields = {}
  for _, field in ipairs(M.split(text, "&")) do
    local parts = M.split(field, "=")
    local name = table.remove(parts, 1)
    for at, part in ipairs(parts) do parts[at] = M.decode(part) end
    fields[name] = fields[name] or {}
    table.insert(fields[name], parts)
  end
  return fields
end

M.fields = M.cached(read_fields)

M.candidates = M.cached(function(text)
  local found = {}
  for _, one in ipairs(M.split(text, "|")) do found[#found + 1] = read_fields(one) end
  return found
end)

M.weights = M.cached(function(text)
  local rows, sum = {}, 0
  for _, row in ipairs(M.split(text, "+")) do
    local slot, weight = row:match("^(.-)%*(%d+)$")
    sum = sum + tonumber(weight)
    rows[#rows + 1] = {slot, sum}
  end
  return {rows, sum}
end)

return M
