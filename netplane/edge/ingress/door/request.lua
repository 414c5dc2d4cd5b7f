-- What a request says, and how it is answered here.

local text = require("door.text")

local M = {}

function M.answer(txn, status, headers, body)
  local reply = txn:reply()
  reply:set_status(status)
  for _, header in ipairs(headers or {}) do reply:add_header(header[1], header[2]) end
  if body then
    reply:add_header("content-type", "text/plain")
    reply:set_body(body)
  end
  txn:done(reply)
end

function M.is_tls(txn)
  return txn.sf:ssl_fc() == "1"
end

function M.with_query(txn, path)
  local query = txn.sf:query()
  return (query and query ~= "") and path .. "?" .. query or path
end

-- The first line of a header.
function M.first(headers, name)
  local lines = headers and headers[name]
  return lines and (lines[0] or lines[1])
end

-- A header that comes in several lines counts as one, joined by commas (RFC 9110, 5.3).
function M.joined(headers)
  local found = {}
  for name, lines in pairs(headers) do
    local all = {}
    for at = 0, #lines do if lines[at] then all[#all + 1] = lines[at] end end
    found[name] = {table.concat(all, ",")}
  end
  return found
end

function M.queries(txn)
  local found = {}
  for _, pair in ipairs(text.split(txn.sf:query() or "", "&")) do
    local name, value = pair:match("^([^=]*)=?(.*)$")
    name, value = text.decode(name:gsub("+", " ")), text.decode(value:gsub("+", " "))
    found[name] = found[name] or {value}
  end
  return found
end

function M.cookies(headers)
  local found = {}
  for _, line in pairs(headers["cookie"] or {}) do
    for _, pair in ipairs(text.split(line, ";")) do
      local name, value = pair:match("^%s*([^=%s]+)%s*=%s*(.-)%s*$")
      if name then found[name] = found[name] or {value} end
    end
  end
  return found
end

local HOP = {connection = 1, ["content-length"] = 1, ["transfer-encoding"] = 1, upgrade = 1, te = 1, expect = 1,
  ["keep-alive"] = 1, ["x-netplane-slot"] = 1, ["x-netplane-method"] = 1}

-- The headers as another service is sent them.
function M.copied(headers, slot)
  local found = {}
  for name, lines in pairs(headers) do
    if not HOP[name] then
      local all = {}
      for at = 0, #lines do if lines[at] then all[#all + 1] = lines[at] end end
      found[name] = all
    end
  end
  found["x-netplane-slot"] = {slot}
  return found
end

-- The path after a change: `full` replaces it, else what follows the prefix is kept.
function M.changed_path(txn, change)
  local kind, value, prefix = change[1], change[2], change[3] or ""
  if kind == "full" then return value end
  local path = txn.sf:path()
  -- As it came, unless the prefix was written otherwise.
  if prefix ~= "/" and path:sub(1, #prefix) ~= prefix then path = txn:get_var("txn.path") end
  local rest = path:sub(prefix == "/" and 1 or #prefix + 1)
  if rest ~= "" and rest:sub(1, 1) ~= "/" then rest = "/" .. rest end
  local changed = value:gsub("/$", "") .. rest
  return changed == "" and "/" or changed
end

return M
