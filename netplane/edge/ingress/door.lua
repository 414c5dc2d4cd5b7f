-- What maps and rules alone cannot decide for a request: matches by header, query and cookie, weights, and policies.
-- Everything here is read from map values that the controller wrote; nothing of a user's is ever run.
-- A value is fields joined by "&", each name=part=part..., with every part percent-encoded; a list of such by "|".

local INTERNAL = "unix@" .. os.getenv("NETPLANE_INTERNAL_SOCKET")
local MAPS = os.getenv("NETPLANE_MAPS")
local EXACT = Map.new(MAPS .. "/exact.map", Map._str)
local REGEX = Map.new(MAPS .. "/regex.map", Map._reg)
local CHOICES = Map.new(MAPS .. "/choices.map", Map._str)
local PREFIX = Map.new(MAPS .. "/prefix.map", Map._beg)
local NOWHERE = "!404--||n"
local DEEPEST_HOST = 8
local CACHED_MOST = 20000

local function answer(txn, status, headers, body)
  local reply = txn:reply()
  reply:set_status(status)
  for _, header in ipairs(headers or {}) do reply:add_header(header[1], header[2]) end
  if body then
    reply:add_header("content-type", "text/plain")
    reply:set_body(body)
  end
  txn:done(reply)
end

local function decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function split(text, separator)
  local parts = {}
  for part in (text .. separator):gmatch("(.-)%" .. separator) do parts[#parts + 1] = part end
  return parts
end

local function cached(read)
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
  for _, field in ipairs(split(text, "&")) do
    local parts = split(field, "=")
    local name = table.remove(parts, 1)
    for at, part in ipairs(parts) do parts[at] = decode(part) end
    fields[name] = fields[name] or {}
    table.insert(fields[name], parts)
  end
  return fields
end

local fields_of = cached(read_fields)

local candidates_of = cached(function(text)
  local found = {}
  for _, one in ipairs(split(text, "|")) do found[#found + 1] = read_fields(one) end
  return found
end)

local weights_of = cached(function(text)
  local rows, sum = {}, 0
  for _, row in ipairs(split(text, "+")) do
    local slot, weight = row:match("^(.-)%*(%d+)$")
    sum = sum + tonumber(weight)
    rows[#rows + 1] = {slot, sum}
  end
  return {rows, sum}
end)

local regex_of = cached(function(text)
  local ok, regex = Regex.new("^(?:" .. text .. ")$", true)
  return ok and regex or false
end)

local function holds(values, wanted, is_regex)
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

local function queries_of(txn)
  local found = {}
  for _, pair in ipairs(split(txn.sf:query() or "", "&")) do
    local name, value = pair:match("^([^=]*)=?(.*)$")
    name, value = decode(name:gsub("+", " ")), decode(value:gsub("+", " "))
    found[name] = found[name] or {value}
  end
  return found
end

local function cookies_of(headers)
  local found = {}
  for _, line in pairs(headers["cookie"] or {}) do
    for _, pair in ipairs(split(line, ";")) do
      local name, value = pair:match("^%s*([^=%s]+)%s*=%s*(.-)%s*$")
      if name then found[name] = found[name] or {value} end
    end
  end
  return found
end

local function all_hold(rows, found, is_regex)
  for _, row in ipairs(rows or {}) do
    if not holds(found[row[1]], row[2], is_regex) then return false end
  end
  return true
end

-- A header that comes in several lines counts as one, joined by commas (RFC 9110, 5.3).
local function joined(headers)
  local found = {}
  for name, lines in pairs(headers) do
    local all = {}
    for at = 0, #lines do if lines[at] then all[#all + 1] = lines[at] end end
    found[name] = {table.concat(all, ",")}
  end
  return found
end

core.register_action("select", {"http-req"}, function(txn)
  local headers = txn.http:req_get_headers()
  local whole, method, queries, cookies = joined(headers), txn.sf:method(), queries_of(txn), cookies_of(headers)
  for _, one in ipairs(candidates_of(CHOICES:lookup(txn:get_var("txn.found")) or "")) do
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
  local rows, sum = table.unpack(weights_of(txn:get_var("txn.slot"):sub(2)))
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

core.register_action("search", {"http-req"}, function(txn)
  local host = txn:get_var("txn.host") or ""
  if host:find("[^a-z0-9._:%[%]-]") then return answer(txn, 400, {}, "400 Bad Request\n") end
  local found = search(txn:get_var("txn.door") or "", host, txn:get_var("txn.path") or "")
  txn:set_var("txn.found", found or NOWHERE)
end, 0)

local REASONS = {[404] = "Not Found", [500] = "Internal Server Error", [503] = "Service Unavailable"}

core.register_action("refuse", {"http-req"}, function(txn)
  local status = tonumber(txn:get_var("txn.slot"):sub(2, 4)) or 503
  answer(txn, status, {}, status .. " " .. (REASONS[status] or "") .. "\n")
end, 0)

local function is_tls(txn)
  return txn.sf:ssl_fc() == "1"
end

local function changed_path(txn, change)
  local kind, value, prefix = change[1], change[2], change[3] or ""
  if kind == "full" then return value end
  local rest = txn:get_var("txn.path"):sub(prefix == "/" and 1 or #prefix + 1)
  if rest ~= "" and rest:sub(1, 1) ~= "/" then rest = "/" .. rest end
  local path = value:gsub("/$", "") .. rest
  return path == "" and "/" or path
end

local function with_query(txn, path)
  local query = txn.sf:query()
  return (query and query ~= "") and path .. "?" .. query or path
end

local function redirect(txn, row)
  local status, scheme, host, port = tonumber(row[1]), row[2], row[3], row[4]
  local now = is_tls(txn) and "https" or "http"
  if port == "" and scheme == "" then port = tostring(txn.sf:dst_port()) end
  scheme = scheme ~= "" and scheme or now
  host = host ~= "" and host or txn:get_var("txn.host")
  local usual = scheme == "https" and "443" or "80"
  local authority = (port == "" or port == usual) and host or host .. ":" .. port
  local path = row[5] ~= "" and changed_path(txn, {row[5], row[6], row[7]}) or txn.sf:path()
  answer(txn, status, {{"location", scheme .. "://" .. authority .. with_query(txn, path)}})
end

local networks_of = cached(function(text)
  local found = {}
  for _, one in ipairs(split(text, ",")) do found[#found + 1] = core.parse_addr(one) end
  return found
end)

local function is_in(client, text)
  for _, network in ipairs(networks_of(text)) do
    if core.match_addr(client, network) then return true end
  end
  return false
end

local function origin_allowed(rows, origin)
  for _, row in ipairs(rows) do
    local wanted = row[1]
    if wanted == "*" or wanted == origin then return true end
    local scheme, suffix = wanted:match("^(https?://)%*(%..+)$")
    if scheme and origin:sub(1, #scheme) == scheme and #origin > #scheme + #suffix
      and origin:sub(-#suffix) == suffix then return true end
  end
  return false
end

local function cors_headers(policy, origin)
  local row = policy.cors[1]
  local is_any = policy.origin[1][1] == "*" and row[5] ~= "1"
  local found = {{"access-control-allow-origin", is_any and "*" or origin}}
  if not is_any then found[#found + 1] = {"vary", "Origin"} end
  if row[5] == "1" then found[#found + 1] = {"access-control-allow-credentials", "true"} end
  return found, row
end

-- Returns whether the request was a preflight, which is answered here.
local function cors(txn, policy, headers)
  local origin = headers["origin"] and headers["origin"][0]
  if not origin or not origin_allowed(policy.origin, origin) then return false end
  local found, row = cors_headers(policy, origin)
  if txn.sf:method() ~= "OPTIONS" or not headers["access-control-request-method"] then
    if row[3] ~= "" then found[#found + 1] = {"access-control-expose-headers", row[3]} end
    txn:set_priv({cors = found})
    return false
  end
  local asked = headers["access-control-request-headers"]
  found[#found + 1] = {"access-control-allow-methods", row[1]}
  found[#found + 1] = {"access-control-allow-headers", row[2] ~= "" and row[2] or (asked and asked[0] or "*")}
  found[#found + 1] = {"access-control-max-age", row[4]}
  answer(txn, 204, found)
  return true
end

local HOP = {connection = 1, ["content-length"] = 1, ["transfer-encoding"] = 1, upgrade = 1, te = 1, expect = 1,
  ["keep-alive"] = 1, ["x-netplane-slot"] = 1}

local function copied(headers, slot)
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

local function first(headers, name)
  local lines = headers and headers[name]
  return lines and (lines[0] or lines[1])
end

-- Ask another service whether the request may pass; an answer that never comes is a refusal.
local function external(txn, row, names, headers)
  local asked = copied(headers, row[1])
  asked["x-original-method"] = {txn.sf:method()}
  asked["x-original-url"] = {(is_tls(txn) and "https" or "http") .. "://" .. txn:get_var("txn.host")
    .. with_query(txn, txn.sf:path())}
  asked["x-forwarded-for"] = {tostring(txn.sf:src())}
  if row[3] ~= "" then asked["host"] = {row[3]} end
  local response = core.httpclient():get({url = "http://auth" .. row[2], headers = asked, dst = INTERNAL,
    timeout = 5000})
  local status = response and response.status or 0
  if status >= 200 and status < 300 then
    for _, name in ipairs(names or {}) do
      txn.http:req_del_header(name[1])
      local value = first(response.headers, name[1])
      if value then txn.http:req_add_header(name[1], value) end
    end
    return true
  end
  if status == 401 and row[4] ~= "" then
    answer(txn, 302, {{"location", row[4]}})
  elseif status == 401 or status == 403 then
    local challenge = first(response.headers, "www-authenticate")
    answer(txn, status, challenge and {{"www-authenticate", challenge}} or {}, response.body)
  else
    answer(txn, 503, {}, "the service that decides about access does not answer\n")
  end
  return false
end

local granted, granted_count = {}, 0

local function basic(txn, row, headers)
  local given = first(headers, "authorization")
  if given and given:lower():sub(1, 6) == "basic " then
    local digest = txn.c:hex(txn.c:digest(row[2] .. " " .. given, "sha256"))
    if granted[digest] then return true end
    local response = core.httpclient():get({url = "http://basic/" .. row[2], dst = INTERNAL, timeout = 10000,
      headers = {["x-netplane-slot"] = {"basic"}, ["authorization"] = {given}}})
    if response and response.status == 204 then
      if granted_count > 5000 then granted, granted_count = {}, 0 end
      granted[digest], granted_count = true, granted_count + 1
      return true
    end
    if not response or response.status ~= 401 then
      answer(txn, 503, {}, "passwords cannot be checked at the moment\n")
      return false
    end
  end
  answer(txn, 401, {{"www-authenticate", 'Basic realm="' .. row[1]:gsub('["\\]', "") .. '", charset="UTF-8"'}})
  return false
end

local function change_headers(http, policy, prefix, side)
  for _, row in ipairs(policy[prefix .. "d"] or {}) do http[side .. "_del_header"](http, row[1]) end
  for _, row in ipairs(policy[prefix .. "s"] or {}) do http[side .. "_set_header"](http, row[1], row[2]) end
  for _, row in ipairs(policy[prefix .. "a"] or {}) do http[side .. "_add_header"](http, row[1], row[2]) end
end

local function send_copy(slot, method, url, headers, body)
  local client = core.httpclient()
  local send = client[method:lower()]
  if send then send(client, {url = url, headers = headers, body = body, dst = INTERNAL, timeout = 10000}) end
end

local function mirror(txn, rows, headers)
  for _, row in ipairs(rows) do
    if math.random() * 100 < tonumber(row[2]) then
      local slot, method, url = row[1], txn.sf:method(), "http://mirror" .. with_query(txn, txn.sf:path())
      local given, body = copied(headers, slot), txn.sf:req_body()
      -- Arguments for a task came with HAProxy 2.7; the request itself is gone when it runs.
      core.register_task(function() send_copy(slot, method, url, given, body) end)
    end
  end
end

local function refuses(txn, policy)
  if not (policy.allow or policy.deny) then return false end
  local client = core.parse_addr(tostring(txn.sf:src()))
  return (policy.deny and is_in(client, policy.deny[1][1]))
    or (policy.allow and not is_in(client, policy.allow[1][1]))
end

local function too_large(policy, headers)
  local most = tonumber(policy.body[1][1])
  local length = first(headers, "content-length")
  if length then return (tonumber(length) or math.huge) > most and 413 end
  local kind = first(headers, "content-type") or ""
  return headers["transfer-encoding"] and kind:sub(1, 16) ~= "application/grpc" and 411
end

local function wants_certificate(txn, policy)
  if not policy.cert then return false end
  if not is_tls(txn) then return 403 end
  local name = txn.sf:ssl_fc_sni()
  if not name or name:lower() ~= txn:get_var("txn.host") then return 421 end
  if txn.sf:ssl_c_used() ~= "1" then return policy.cert[1][1] == "on" and 496 or false end
  return txn.sf:ssl_c_verify() ~= "0" and 495
end

core.register_action("policy", {"http-req"}, function(txn)
  local text = txn:get_var("txn.policy")
  if not text then return answer(txn, 503) end
  local policy, headers = fields_of(text), txn.http:req_get_headers()
  if policy.tls and not is_tls(txn) then
    local row = policy.tls[1]
    return redirect(txn, {row[1], "https", "", row[2], "", ""})
  end
  if refuses(txn, policy) then return answer(txn, 403, {}, "403 Forbidden\n") end
  local refusal = wants_certificate(txn, policy)
  if refusal then return answer(txn, refusal == 421 and 421 or 403, {}, "a client certificate is needed\n") end
  if policy.cors and cors(txn, policy, headers) then return end
  if policy.basic and not basic(txn, policy.basic[1], headers) then return end
  if policy.auth and not external(txn, policy.auth[1], policy.copy, headers) then return end
  local status = policy.body and too_large(policy, headers)
  if status then return answer(txn, status) end
  if policy.redirect then return redirect(txn, policy.redirect[1]) end
  for _, name in ipairs({"server", "tunnel", "rps", "rpm", "conn", "cookie"}) do
    if policy[name] then txn:set_var("txn." .. name, tonumber(policy[name][1][1]) or policy[name][1][1]) end
  end
  if policy.rps or policy.rpm or policy.conn then
    txn:set_var("txn.client", txn:get_var("txn.rid") .. "/" .. tostring(txn.sf:src()))
  end
  if policy.cookie then
    local kept = cookies_of(headers)[policy.cookie[1][1]]
    if kept and kept[1]:match("^%x+$") then txn.http:req_add_header("cookie", "NETPLANE=" .. kept[1]) end
  end
  if policy.mirror then mirror(txn, policy.mirror, headers) end
  if policy.host then txn.http:req_set_header("host", policy.host[1][1]) end
  if policy.path then txn.http:req_set_path(changed_path(txn, policy.path[1])) end
  change_headers(txn.http, policy, "q", "req")
  if policy.pd or policy.ps or policy.pa or policy.hsts or policy.cors then txn:set_var("txn.answer", 1) end
end, 0)

core.register_action("limit", {"http-req"}, function(txn)
  local sf = txn.sf
  for name, now in pairs({rps = sf:sc1_http_req_rate(), rpm = sf:sc2_http_req_rate(), conn = sf:sc1_conn_cur()}) do
    local most = tonumber(txn:get_var("txn." .. name))
    if most and (tonumber(now) or 0) > most then return answer(txn, 429, {}, "429 Too Many Requests\n") end
  end
end, 0)

core.register_action("answer", {"http-res"}, function(txn)
  local policy = fields_of(txn:get_var("txn.policy"))
  change_headers(txn.http, policy, "p", "res")
  if policy.hsts and is_tls(txn) then
    txn.http:res_set_header("strict-transport-security", policy.hsts[1][1])
  end
  local kept = txn:get_priv()
  for _, header in ipairs(kept and kept.cors or {}) do
    if header[1] == "vary" then txn.http:res_add_header(header[1], header[2])
    else txn.http:res_set_header(header[1], header[2]) end
  end
end, 0)
