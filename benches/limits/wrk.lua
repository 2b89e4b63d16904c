-- For wrk: `wrk -s wrk.lua URL -- GET` asks for the URL again and again, with this method; `wrk -s wrk.lua URL -- GET N`
-- in turn for ?uid=bench…1 to ?uid=bench…N of it. The requests are written before the run. The last line of the output is
-- the result as JSON.

function init(args)
    wrk.method = args[1]
    local count = tonumber(args[2]) or 0
    local requests, turn = {}, 0
    for number = 1, count do
        requests[number] = wrk.format(wrk.method, wrk.path .. string.format("?uid=bench%014d", number))
    end
    if count > 0 then
        request = function()
            turn = turn % count + 1
            return requests[turn]
        end
    end
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.timeout
    io.write(string.format(
        '{"answers":%d,"refused":%d,"failed":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
        summary.requests, errors.status, failed, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
