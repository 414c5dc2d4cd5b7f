-- Carry out a route's policy: what happens to a request and its answer beyond where it goes.

local access = require("door.access")
local cors = require("door.cors")
local request = require("door.request")
local text = require("door.text")

local INTERNAL = "unix@" .. os.getenv("NETPLANE_INTERNAL_SOCKET")

local function redirect(txn, row)
  if (row[8] or "") ~= "" then return request.answer(txn, tonumber(row[1]), {{"location", row[8]}}) end
  local status, scheme, host, port = tonumber(row[1]), row[2], row[3], row[4]
  local now = request.is_tls(txn) and "https" or "http"
  if port == "" and scheme == "" then port = tostring(txn.sf:dst_port()) end
  scheme = scheme ~= "" and scheme or now
  host = host ~= "" and host or txn:get_var("txn.host")
  local usual = scheme == "https" and "443" or "80"
  local authority = (port == "" or port == usual) and host or host .. ":" .. port
  local path = row[5] ~= "" and request.changed_path(txn, {row[5], row[6], row[7]}) or txn.sf:path()
  request.answer(txn, status, {{"location", scheme .. "://" .. authority .. request.with_query(txn, path)}})
end

local function change_headers(http, policy, prefix, side)
  for _, row in ipairs(policy[prefix .. "d"] or {}) do http[side .. "_del_header"](http, row[1]) end
  for _, row in ipairs(policy[prefix .. "s"] or {}) do http[side .. "_set_header"](http, row[1], row[2]) end
  for _, row in ipairs(policy[prefix .. "a"] or {}) do http[side .. "_add_header"](http, row[1], row[2]) end
end

local SENT_AS_IS = {GET = "get", HEAD = "head", PUT = "put", POST = "post", DELETE = "delete"}

-- A method that the engine's client does not know is set on the way.
local function send_copy(method, url, headers, body)
  local client, verb = core.httpclient(), SENT_AS_IS[method]
  if not verb then headers["x-netplane-method"] = {method} end
  client[verb or (body and "post" or "get")](client,
    {url = url, headers = headers, body = body, dst = INTERNAL, timeout = 10000})
end

-- The body when all of it is here ("" for none), else nothing: a copy is whole, or it is not sent.
local function whole_body(txn, headers)
  local body, length = txn.sf:req_body() or "", request.first(headers, "content-length")
  local is_whole = length and tonumber(length) == #body or not length and not headers["transfer-encoding"] and body == ""
  return is_whole and body
end

local function mirror(txn, rows, headers)
  local body = whole_body(txn, headers)
  if not body or txn.sf:method() == "CONNECT" then return end
  for _, row in ipairs(rows) do
    if math.random() * 100 < tonumber(row[2]) then
      local slot, method, url = row[1], txn.sf:method(), "http://mirror" .. request.with_query(txn, txn.sf:path())
      local given = request.copied(headers, slot)
      -- Arguments for a task came with HAProxy 2.7; the request itself is gone when it runs.
      core.register_task(function() send_copy(method, url, given, body ~= "" and body or nil) end)
    end
  end
end

-- A body of unknown length is refused; HTTP/2 does not say that there is one, so that its beginning was waited for.
local function too_large(txn, policy, headers)
  local length = request.first(headers, "content-length")
  if length then return (tonumber(length) or math.huge) > tonumber((policy.body or policy.told)[1][1]) and 413 end
  return policy.body and (headers["transfer-encoding"] or (tonumber(txn.sf:req_body_len()) or 0) > 0) and 411
end

core.register_action("policy", {"http-req"}, function(txn)
  local said = txn:get_var("txn.policy")
  if not said then return request.answer(txn, 503) end
  local policy, headers = text.fields(said), txn.http:req_get_headers()
  if policy.tls and not request.is_tls(txn) then
    local row = policy.tls[1]
    return redirect(txn, {row[1], "https", "", row[2], "", ""})
  end
  if access.refuses(txn, policy) then return request.answer(txn, 403, {}, "403 Forbidden\n") end
  local refusal = access.wants_certificate(txn, policy)
  if refusal then return request.answer(txn, refusal == 421 and 421 or 403, {}, "a client certificate is needed\n") end
  if policy.cors and cors.answered(txn, policy, headers) then return end
  if policy.basic and not access.basic(txn, policy.basic[1], headers) then return end
  if policy.auth and not access.external(txn, policy.auth[1], policy.copy, headers) then return end
  local status = (policy.body or policy.told) and too_large(txn, policy, headers)
  if status then return request.answer(txn, status) end
  if policy.redirect then return redirect(txn, policy.redirect[1]) end
  for _, name in ipairs({"server", "tunnel", "rps", "rpm", "conn", "cookie"}) do
    if policy[name] then txn:set_var("txn." .. name, tonumber(policy[name][1][1]) or policy[name][1][1]) end
  end
  if policy.rps or policy.rpm or policy.conn then
    txn:set_var("txn.client", (policy.scope and policy.scope[1][1] or txn:get_var("txn.rid")) .. "/" .. tostring(txn.sf:src()))
  end
  if policy.cookie then
    local kept = request.cookies(headers)[policy.cookie[1][1]]
    if kept and kept[1]:match("^%x+$") then txn.http:req_add_header("cookie", "NETPLANE=" .. kept[1]) end
  end
  if policy.mirror then mirror(txn, policy.mirror, headers) end
  if policy.host then txn.http:req_set_header("host", policy.host[1][1]) end
  if policy.path then txn.http:req_set_path(request.changed_path(txn, policy.path[1])) end
  change_headers(txn.http, policy, "q", "req")
  if policy.pd or policy.ps or policy.pa or policy.hsts or policy.cors then txn:set_var("txn.answer", 1) end
end, 0)

core.register_action("limit", {"http-req"}, function(txn)
  local sf = txn.sf
  for name, now in pairs({rps = sf:sc1_http_req_rate(), rpm = sf:sc2_http_req_rate(), conn = sf:sc1_conn_cur()}) do
    local most = tonumber(txn:get_var("txn." .. name))
    if most and (tonumber(now) or 0) > most then return request.answer(txn, 429, {}, "429 Too Many Requests\n") end
  end
end, 0)

core.register_action("answer", {"http-res"}, function(txn)
  local policy = text.fields(txn:get_var("txn.policy"))
  change_headers(txn.http, policy, "p", "res")
  if policy.hsts and request.is_tls(txn) then
    txn.http:res_set_header("strict-transport-security", policy.hsts[1][1])
  end
  cors.mark(txn)
end, 0)
