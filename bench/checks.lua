-- What the scripts of wrk share that look at every answer.
local checks = {}

-- A variable of the environment, or what is in the file that the variable of that name with `_FILE` behind it names.
function checks.given(name)
  local path = os.getenv(name .. "_FILE")
  if not path then return os.getenv(name) or "" end
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- Has each request carry CALL_HEADERS, which are lines `Name: value`.
function checks.take_headers()
  for name, value in checks.given("CALL_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
  end
end

-- What is left of a text without CALL_ID.
function checks.around_ids(text)
  local parts, from = {}, 1
  local mark = os.getenv("CALL_ID")
  while true do
    local first, last = text:find(mark, from, true)
    parts[#parts + 1] = text:sub(from, (first or 0) - 1)
    if not first then return parts end
    from = last + 1
  end
end

-- Whether a body is the parts with the id between them. It may be long: nothing is copied.
function checks.is_answer(body, parts, id)
  local at = 1
  for index, part in ipairs(parts) do
    if index > 1 then
      if body:find(id, at, true) ~= at then return false end
      at = at + #id
    end
    if body:find(part, at, true) ~= at then return false end
    at = at + #part
  end
  return at == #body + 1
end

-- An id as wide as CALL_ID: CALL_RUN, four digits that no other run has, the thread, and the number of the call in it.
function checks.id(thread, number)
  return string.format("%s%03d%08d", os.getenv("CALL_RUN"), thread, number)
end

-- One line for the script that started it, with the sum of all threads' `right`; times in microseconds.
function checks.report(summary, latency, threads)
  local errors, all_right = summary.errors, 0
  for _, each in ipairs(threads) do
    all_right = all_right + each:get("right")
  end
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.duration, summary.requests, summary.bytes,
    summary.requests - all_right, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end

return checks
