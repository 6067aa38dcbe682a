-- Posts one body (a file's content) or, where the second argument is "lines", each line of the file in turn, from
-- anywhere on: path TAB body. Says what it saw as one line of JSON.

local function read(name)
   local file = assert(io.open(name, "rb"))
   local content = file:read("*a")
   file:close()
   return content
end

function init(args)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   local content = read(args[1])
   if args[2] ~= "lines" then
      wrk.body = content
      return
   end
   local requests, next_one = {}, 0
   for path, body in content:gmatch("([^\t\n]+)\t([^\n]+)") do
      requests[#requests + 1] = wrk.format(nil, path, nil, body)
   end
   math.randomseed(os.time())
   next_one = math.random(#requests)
   function request()
      next_one = next_one % #requests + 1
      return requests[next_one]
   end
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "us": %d, "status": %d, "socket": %d, "p50_us": %.1f, "p99_us": %.1f}\n',
      summary.requests, summary.duration, errors.status,
      errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
