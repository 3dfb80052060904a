-- Sessions that live for one call: `initialize`, `notifications/initialized`, a call, DELETE; each answer is looked
-- at, that to the call byte by byte. For one connection a thread: then the next answer is that of the last request.
--
-- From the environment, as `session.lua` takes it: CALL_HEADERS, CALL_BODY, CALL_ANSWER, CALL_ID, CALL_RUN; besides
-- CALL_INITIALIZE, a message with CALL_ID in it, and CALL_INITIALIZED.
local checks = require "checks"

checks.take_headers()

local threads = {}
local initialize, initialized, question, answer, id, session
local number, step = 0, 0

function setup(thread)
  threads[#threads + 1] = thread
  thread:set("thread", #threads)
end

function init(_)
  right = 0
  initialize = checks.around_ids(wrk.format("POST", nil, nil, checks.given("CALL_INITIALIZE")))
  initialized = checks.given("CALL_INITIALIZED")
  question = checks.around_ids(checks.given("CALL_BODY"))
  answer = checks.around_ids(checks.given("CALL_ANSWER"))
end

-- What a request of the session carries besides.
local function with_session()
  local fields = { ["Mcp-Session-Id"] = session, ["MCP-Protocol-Version"] = os.getenv("CALL_REVISION") }
  for name, value in pairs(wrk.headers) do
    fields[name] = value
  end
  return fields
end

local function next_request()
  if step == 1 then
    number = number + 1
    id = checks.id(thread, number)
    return table.concat(initialize, id)
  end
  if step == 2 then return wrk.format("POST", nil, with_session(), initialized) end
  if step == 3 then return wrk.format("POST", nil, with_session(), table.concat(question, id)) end
  return wrk.format("DELETE", nil, with_session())
end

function request()
  -- The first that wrk asks for, it does not send.
  if not session then step = 0 end
  step = step % 4 + 1
  return next_request()
end

local function take_session(headers)
  session = nil
  for name, value in pairs(headers) do
    if name:lower() == "mcp-session-id" then session = value end
  end
  return session ~= nil
end

local function is_right(status, headers, body)
  if step == 1 then return status == 200 and body:find(id, 1, true) and take_session(headers) end
  if step == 2 then return status == 202 end
  if step == 3 then return status == 200 and checks.is_answer(body, answer, id) end
  session = nil
  return status == 200 or status == 204
end

function response(status, headers, body)
  if is_right(status, headers, body) then
    right = right + 1
    return
  end
  if not wrong then
    wrong = true
    io.stderr:write(string.format("step %d of the session %s got %d %s\n", step, id, status, body:sub(1, 500)))
  end
  -- A session that went wrong is followed by another.
  session = nil
end

function done(summary, latency, _)
  checks.report(summary, latency, threads)
end
