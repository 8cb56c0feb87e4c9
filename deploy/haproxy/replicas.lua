-- Takes from a replica that is down what it has in hand, so that HAProxy sends it to another one.
--
-- `on-marked-down shutdown-sessions` would do it at once, and lose the requests whose connection is just being made: HAProxy
-- 2.6 closes those without an answer. Nothing new is sent to a replica that is down, and a connection is made or given
-- up within `timeout connect`; so what is left after that waits for an answer, and can be sent again.
local LOOK_MS = 100
local WAIT_MS = 700 -- longer than `timeout connect`
local down_ms = {}

core.register_task(function()
  while true do
    core.msleep(LOOK_MS)
    for _, name in ipairs({ "http", "grpc" }) do
      for replica, server in pairs(core.backends[name].servers) do
        local key = name .. "/" .. replica
        local is_down = server:get_stats()["status"]:sub(1, 4) == "DOWN"
        down_ms[key] = is_down and (down_ms[key] or 0) + LOOK_MS or nil
        if is_down and down_ms[key] > WAIT_MS then
          server:shut_sess()
        end
      end
    end
  end
end)
