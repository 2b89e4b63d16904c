-- For wrk: `wrk -s wrk.lua URL -- GET` asks for the URL again and again, with this method; `wrk -s wrk.lua URL -- GET N
-- QUERY` in turn for ?QUERY of it with the numbers 1 to N in the place of %d, written before the run; and with a fourth
-- argument START in another order, that of START-th and further numbers of a fixed shuffle, so that runs that start far
-- enough apart ask for nothing twice. `wrk -s wrk.lua URL -- KEYED NAME USERS` posts changes of segments of so many users,
-- each with an idempotency key of its own. The last line of the output is the result as JSON.

local threads = 0

function setup(thread)
    thread:set("place", threads)
    threads = threads + 1
end

function init(args)
    if args[1] == "KEYED" then
        return keyed(args[2], tonumber(args[3]))
    end
    wrk.method = args[1]
    local count, query, start = tonumber(args[2]) or 0, args[3], tonumber(args[4])
    if start then
        -- A prime that divides no such count shuffles all numbers.
        local step, turn = 6700417, start + place
        local head, tail = wrk.format(wrk.method, wrk.path .. "?" .. query):match("^(.-)%%d(.*)$")
        request = function()
            turn = turn + 2
            return head .. string.format("%d", turn * step % count + 1) .. tail
        end
        return
    end
    local requests, turn = {}, 0
    for number = 1, count do
        requests[number] = wrk.format(wrk.method, wrk.path .. "?" .. string.format(query, number))
    end
    if count > 0 then
        request = function()
            turn = turn % count + 1
            return requests[turn]
        end
    end
end

function keyed(name, users)
    local turn = 0
    request = function()
        turn = turn + 1
        local user = 1000001 + (2 * turn + place) % users
        local headers = {
            ["Content-Type"] = "application/json",
            ["Idempotency-Key"] = string.format("%s-%d-%d", name, place, turn),
        }
        local body = string.format('{"user_id":%d,"add":["A"],"del":["B"],"ttl_days":1}', user)
        return wrk.format("POST", nil, headers, body)
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
