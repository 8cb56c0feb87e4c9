"""The capacity table, worked out by hand."""

from loadtests.fleet.capacity import Need, needs, table


def test_replicas_follow_from_processor_time_and_one_is_to_spare() -> None:
    row = {"model": "m", "bytes": 50_000, "replica_ms": 56.0, "balancer_ms": 0.7, "decode_ms": 1.0, "infer_ms": 4.0}
    # 100 a second take 5.6 s of processor time a second: 8 cores at 70 %, which two replicas of four have.
    # The balancer takes 0.07 s: a tenth of a core. 100 times 50 kB are 40 Mbit.
    # 1,000 a second take 80 cores, the balancer one, 400 Mbit.
    assert needs({"throughput": [row]}, (100, 1_000)) == [
        Need("m", 100, 3, 1, 40.0, 0.2),
        Need("m", 1_000, 21, 1, 400.0, 0.2),
    ]
    assert "| m | 1,000 | 21 | 1 | 400 | 20% |" in table(needs({"throughput": [row]}))
