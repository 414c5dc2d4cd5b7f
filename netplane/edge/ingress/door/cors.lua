-- Cross-origin requests: who may ask, and the answers to preflights.

local request = require("door.request")

local M = {}

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
  -- Any origin is nobody's friend: browsers send it no cookies, and the answer must not make it one by name.
  local is_any = policy.origin[1][1] == "*"
  local found = {{"access-control-allow-origin", is_any and "*" or origin}}
  if is_any then return found, row end
  found[#found + 1] = {"vary", "Origin"}
  if row[5] == "1" then found[#found + 1] = {"access-control-allow-credentials", "true"} end
  return found, row
end

-- Returns whether the request was a preflight, which is answered here.
function M.answered(txn, policy, headers)
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
  request.answer(txn, 204, found)
  return true
end

-- Set on the answer what was found for the request.
function M.mark(txn)
  local kept = txn:get_priv()
  for _, header in ipairs(kept and kept.cors or {}) do
    if header[1] == "vary" then txn.http:res_add_header(header[1], header[2])
    else txn.http:res_set_header(header[1], header[2]) end
  end
end

return M
