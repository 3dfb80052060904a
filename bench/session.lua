-- Calls, each with an id and a text of its own, and each answer compared with the one that this call must get, byte
-- by byte. For one connection a thread: then the next answer is that of the last call.
--
-- From the environment, each as text or as the name of a file (`checks.given`): CALL_HEADERS; CALL_BODY and
-- CALL_ANSWER, a call and its right answer; without a body, a GET. CALL_ID, what in both stands for the call;
-- CALL_RUN, four digits that no other run has. With CALL_ANY_ORDER, of the answer the length and the id are compared.
local checks = require "checks"

checks.take_headers()

local threads = {}
local question, answer, id
local number = 0

function setup(thread)
  threads[#threads + 1] = thread
  thread:set("thread", #threads)
end

function init(_)
  right = 0
  local body = checks.given("CALL_BODY")
  question = checks.around_ids(body == "" and wrk.format("GET") or wrk.format("POST", nil, nil, body))
  answer = checks.around_ids(checks.given("CALL_ANSWER"))
end

local function is_answer(body)
  if os.getenv("CALL_ANY_ORDER") then return #body == #table.concat(answer, id) and body:find(id, 1, true) end
  return checks.is_answer(body, answer, id)
end

function request()
  number = number + 1
  id = checks.id(thread, number)
  return table.concat(question, id)
end

function response(status, _, body)
  if status == 200 and is_answer(body) then
    right = right + 1
  elseif not wrong then
    wrong = true
    io.stderr:write(string.format("the call %s got %d %s\n", id, status, body:sub(1, 500)))
  end
end

function done(summary, latency, _)
  checks.report(summary, latency, threads)
end
