"""Ray Serve: one replica for each core, which it reserves, with the high-throughput settings.

https://docs.ray.io/en/latest/serve/advanced-guides/performance.html (a core a replica, `OMP_NUM_THREADS` set) and
https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html (`RAY_SERVE_ENABLE_HA_PROXY`,
`RAY_SERVE_THROUGHPUT_OPTIMIZED`, which `servers.toml` sets). Batching only where the regime has a batch over 1:
https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html
"""

import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from loadtests.compare.work import Answer, from_environment, setting

BATCH = setting("BATCH")


@serve.deployment(
    num_replicas=setting("WORKERS"), ray_actor_options={"num_cpus": 1}, max_ongoing_requests=max(5, 2 * BATCH)
)
class Classifier:
    """Classifies pictures or rows, one run at a time."""

    def __init__(self) -> None:
        self.work = from_environment()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
    async def batched(self, payloads: list[bytes]) -> list[Answer]:
        """Classify a batch."""
        return self.work.batch(payloads)

    async def __call__(self, request: Request) -> Answer:
        """Classify one payload."""
        data = await request.body()
        if BATCH == 1:
            return self.work(data)
        answer: Answer = await self.batched(data)
        return answer


if __name__ == "__main__":
    ray.init(num_cpus=setting("WORKERS"), include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": setting("PORT")})
    application: Any = Classifier
    serve.run(application.bind(), route_prefix="/")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
