-- Who may pass: by network, by certificate, by password, by the word of another service.

local request = require("door.request")
local text = require("door.text")

local M = {}
local AUTHORITIES = Map.new(os.getenv("NETPLANE_MAPS") .. "/authorities.map", Map._str)
local INTERNAL = "unix@" .. os.getenv("NETPLANE_INTERNAL_SOCKET")

local networks_of = text.cached(function(list)
  local found = {}
  for _, one in ipairs(text.split(list, ",")) do found[#found + 1] = core.parse_addr(one) end
  return found
end)

local function is_in(client, list)
  for _, network in ipairs(networks_of(list)) do
    if core.match_addr(client, network) then return true end
  end
  return false
end

-- Whether the client is of a network that may not.
function M.refuses(txn, policy)
  if not (policy.allow or policy.deny) then return false end
  local client = core.parse_addr(tostring(txn.sf:src()))
  return (policy.deny and is_in(client, policy.deny[1][1]))
    or (policy.allow and not is_in(client, policy.allow[1][1]))
end

-- Tell the backend who the client is proved to be.
local function introduce(txn, is_proved)
  txn.http:req_set_header("ssl-client-verify", is_proved and "SUCCESS" or "NONE")
  if not is_proved then return end
  txn.http:req_set_header("ssl-client-subject-dn", txn.sf:ssl_c_s_dn("", 0, "rfc2253") or "")
  txn.http:req_set_header("ssl-client-issuer-dn", txn.sf:ssl_c_i_dn("", 0, "rfc2253") or "")
end

-- The status that tells a client without a certificate so, else false.
function M.wants_certificate(txn, policy)
  if not policy.cert then return false end
  if not request.is_tls(txn) then return 403 end
  local name, mode, authority = txn.sf:ssl_fc_sni(), table.unpack(policy.cert[1])
  name = name and name:lower()
  if not name or name ~= txn:get_var("txn.host") then return 421 end
  -- Another route's authorities count for this name: whom they vouch for is nobody here.
  if (AUTHORITIES:lookup(name) or AUTHORITIES:lookup((name:gsub("^[^.]*", "*", 1)))) ~= authority then return 403 end
  local is_shown = txn.sf:ssl_c_used() == "1"
  if not is_shown and mode == "on" then return 496 end
  if is_shown and txn.sf:ssl_c_verify() ~= "0" then return 495 end
  introduce(txn, is_shown)
  return false
end

-- Ask another service whether the request may pass; an answer that never comes is a refusal.
function M.external(txn, row, names, headers)
  local asked = request.copied(headers, row[1])
  asked["x-original-method"] = {txn.sf:method()}
  asked["x-original-url"] = {(request.is_tls(txn) and "https" or "http") .. "://" .. txn:get_var("txn.host")
    .. request.with_query(txn, txn.sf:path())}
  asked["x-forwarded-for"] = {tostring(txn.sf:src())}
  if row[3] ~= "" then asked["host"] = {row[3]} end
  local response = core.httpclient():get({url = "http://auth" .. row[2], headers = asked, dst = INTERNAL,
    timeout = 5000})
  local status = response and response.status or 0
  if status >= 200 and status < 300 then
    for _, name in ipairs(names or {}) do
      txn.http:req_del_header(name[1])
      local value = request.first(response.headers, name[1])
      if value then txn.http:req_add_header(name[1], value) end
    end
    return true
  end
  if status == 401 and row[4] ~= "" then
    request.answer(txn, 302, {{"location", row[4]}})
  elseif status == 401 or status == 403 then
    local challenge = request.first(response.headers, "www-authenticate")
    request.answer(txn, status, challenge and {{"www-authenticate", challenge}} or {}, response.body)
  else
    request.answer(txn, 503, {}, "the service that decides about access does not answer\n")
  end
  return false
end

local granted, granted_count = {}, 0

-- Ask the checker of passwords; who was right once is not asked for again.
function M.basic(txn, row, headers)
  local given = request.first(headers, "authorization")
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
      request.answer(txn, 503, {}, "passwords cannot be checked at the moment\n")
      return false
    end
  end
  local realm = row[1]:gsub('["\\]', "")
  request.answer(txn, 401, {{"www-authenticate", 'Basic realm="' .. realm .. '", charset="UTF-8"'}})
  return false
end

return M
