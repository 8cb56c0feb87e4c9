"""One server each, as its own documentation advises on a CPU; every one calls `loadtests.compare.work.Work`.

Each is told what to do by `COMPARE_*` in the environment; `loadtests.compare.servers` sets those, and starts them.
"""
