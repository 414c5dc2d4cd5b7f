-- Say where a request goes when its host and path alone do not: by the host's wildcards, by regular expressions,
-- by header, query and cookie, and by weights.

local request = require("door.request")
local text = require("door.text")

local MAPS = os.getenv("NETPLANE_MAPS")
local EXACT = Map.new(MAPS .. "/exact.map", Map._str)
local REGEX = Map.new(MAPS .. "/regex.map", Map._reg)
local CHOICES = Map.new(MAPS .. "/choices.map", Map._str)
local PREFIX = Map.new(MAPS .. "/prefix.map", Map._beg)
local NOWHERE = "!404--||n"
local DEEPEST_HOST = 8
local REASONS = {[404] = "Not Found", [500] = "Internal Server Error", [503] = "Service Unavailable"}

local regex_of = text.cached(function(pattern)
  local ok, regex = Regex.new("^(?:" .. pattern .. ")$", true)
  return ok and regex or false
end)

local function holds(values, wanted, is_regex)
  if is_regex and wanted == "" then return values ~= nil end
  for _, value in pairs(values or {}) do
    if is_regex then
      local regex = regex_of(wanted)
      if regex and regex:match(value) then return true end
    elseif value == wanted then
      return true
    end
  end
  return false
end

local function all_hold(rows, found, is_regex)
  for _, row in ipairs(rows or {}) do
    if not holds(found[row[1]], row[2], is_regex) then return false end
  end
  return true
end

core.register_action("select", {"http-req"}, function(txn)
  local headers = txn.http:req_get_headers()
  local whole, method = request.joined(headers), txn.sf:method()
  local queries, cookies = request.queries(txn), request.cookies(headers)
  for _, one in ipairs(text.candidates(CHOICES:lookup(txn:get_var("txn.found")) or "")) do
    if (not one.m or one.m[1][1] == method)
      and all_hold(one.h, whole) and all_hold(one.H, whole, true)
      and all_hold(one.q, queries) and all_hold(one.Q, queries, true)
      and all_hold(one.c, cookies) and all_hold(one.C, cookies, true) then
      txn:set_var("txn.found", one.to[1][1])
      return
    end
  end
  txn:set_var("txn.found", NOWHERE)
end, 0)

core.register_action("pick", {"http-req"}, function(txn)
  local rows, sum = table.unpack(text.weights(txn:get_var("txn.slot"):sub(2)))
  local point = math.random(sum)
  for _, row in ipairs(rows) do
    if point <= row[2] then
      txn:set_var("txn.slot", row[1])
      return
    end
  end
end, 0)

local function at_place(door, host, path)
  local key = door .. "/" .. host .. path
  return EXACT:lookup(key) or (door:find("^", 1, true) and REGEX:lookup(key)) or PREFIX:lookup(key .. "/")
end

-- What is left when the host itself has no path that fits: its wildcards, one label less each time, then any host.
local function search(door, host, path)
  local found = door:find("^", 1, true) and at_place(door, host, path)
  if found then return found end
  local rest = host
  for depth = 1, (door:find("[+~]") and DEEPEST_HOST or 0) do
    rest = rest:gsub("^%.?[^.]*", "", 1)
    if #rest < 2 then break end
    found = (depth == 1 and at_place(door, "*" .. rest, path)) or at_place(door, "**" .. rest, path)
    if found then return found end
  end
  return at_place(door, "*", path)
end

-- `//admin` and `/%61dmin` are looked for as `/admin`, for a guard of that would be passed by else; what is sent on stays
-- as it came. See `looked_up` in plan/values.
core.register_action("plain", {"http-req"}, function(txn)
  local path = (txn.sf:path() or ""):gsub("%%%x%x", function(code)
    local char = text.decode(code)
    return char:find("^[%w._~/-]$") and char
  end)
  path = path:gsub("//+", "/")
  if (path .. "/"):find("/%.%.?/") then return request.answer(txn, 400, {}, "400 Bad Request\n") end
  txn:set_var("txn.path", path)
end, 0)

core.register_action("search", {"http-req"}, function(txn)
  local host = txn:get_var("txn.host") or ""
  if host:find("[^a-z0-9._:%[%]-]") then return request.answer(txn, 400, {}, "400 Bad Request\n") end
  local found = search(txn:get_var("txn.door") or "", host, txn:get_var("txn.path") or "")
  txn:set_var("txn.found", found or NOWHERE)
end, 0)

core.register_action("refuse", {"http-req"}, function(txn)
  local status = tonumber(txn:get_var("txn.slot"):sub(2, 4)) or 503
  request.answer(txn, status, {}, status .. " " .. (REASONS[status] or "") .. "\n")
end, 0)
