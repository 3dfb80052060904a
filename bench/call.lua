-- One fixed request, from the environment: CALL_BODY, and CALL_HEADERS as lines `Name: value`. Without a
-- function `request`, wrk makes the bytes once and sends the same ones for ever.
wrk.method = "POST"
wrk.body = os.getenv("CALL_BODY")
for name, value in os.getenv("CALL_HEADERS"):gmatch("([^:\n]+): ([^\n]+)") do
  wrk.headers[name] = value
end

-- One line for the script that started it; times in microseconds.
function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.duration, summary.requests, summary.bytes,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
