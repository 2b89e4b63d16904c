-- For wrk: clicks on several banners in turn. At the end a line of JSON says how wrk has seen the answers.

local BANNERS = 5
local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init()
    turn, counted, other = 0, 0, 0
end

function request()
    turn = turn % BANNERS + 1
    return wrk.format("GET", "/v1/banners/counter/" .. turn)
end

function response(status)
    if status == 204 then
        counted = counted + 1
    else
        other = other + 1
    end
end

function done(summary)
    local counted, other, errors = 0, 0, summary.errors
    for _, thread in ipairs(threads) do
        counted = counted + thread:get("counted")
        other = other + thread:get("other")
    end
    local broken = errors.connect + errors.read + errors.write + errors.timeout
    io.write(string.format('{"counted":%d,"other":%d,"broken":%d}\n', counted, other, broken))
end
