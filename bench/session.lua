-- Calls on one session, each with an id and a text of its own, and each answer compared with the one that this call
-- must get, byte by byte. For one connection a thread: then the next answer is that of the last call.
--
-- From the environment: CALL_HEADERS as lines `Name: value`; CALL_BODY and CALL_ANSWER, a call and its right answer;
-- CALL_ID, what in both stands for the call, as wide as every id here; CALL_RUN, four digits that no other run has.
wrk.method = "POST"
for name, value in os.getenv("CALL_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

local threads = {}
local question, answer, run, id
local number = 0

function setup(thread)
  threads[#threads + 1] = thread
  thread:set("thread", #threads)
end

-- What is left of a text without the ids in it.
local function around_ids(text)
  local parts, from = {}, 1
  local mark = os.getenv("CALL_ID")
  while true do
    local first, last = text:find(mark, from, true)
    parts[#parts + 1] = text:sub(from, (first or 0) - 1)
    if not first then return parts end
    from = last + 1
  end
end

function init(_)
  right = 0
  run = os.getenv("CALL_RUN")
  question = around_ids(wrk.format(nil, nil, nil, os.getenv("CALL_BODY")))
  answer = around_ids(os.getenv("CALL_ANSWER"))
end

function request()
  number = number + 1
  id = string.format("%s%03d%08d", run, thread, number)
  return table.concat(question, id)
end

function response(status, _, body)
  if status == 200 and body == table.concat(answer, id) then
    right = right + 1
  elseif not wrong then
    wrong = true
    io.stderr:write(string.format("the call %s got %d %s\n", id, status, body:sub(1, 500)))
  end
end

-- One line for the script that started it; times in microseconds.
function done(summary, latency, _)
  local errors, all_right = summary.errors, 0
  for _, each in ipairs(threads) do
    all_right = all_right + each:get("right")
  end
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.duration, summary.requests, summary.bytes,
    summary.requests - all_right, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
