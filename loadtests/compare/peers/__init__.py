"""The peers: each module is a server as its own documentation advises on a CPU.

Each calls `loadtests.compare.work.Work`, and reads its settings from `COMPARE_*` in the environment, which
`loadtests.compare.servers` sets when it starts a peer.
"""
