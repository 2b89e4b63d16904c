-- For wrk: `wrk -s wrk.lua URL` asks for the URL again and again; `wrk -s wrk.lua URL -- N` in turn for ?uid=bench…1 to
-- ?uid=bench…N of it. The requests are written before the run. The last line of the output is the result as JSON.

function init(args)
    local count = tonumber(args[1]) or 0
    local requests, turn = {}, 0
    for number = 1, count do
        requests[number] = wrk.format("GET", wrk.path .. string.format("?uid=bench%014d", number))
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
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '{"answers":%d,"failed":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
        summary.requests, failed, summary.duration / 1e6,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
