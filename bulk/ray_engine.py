"""The engine of many machines: Ray Data, with an actor for every core, each with the model and one narrow session.

Only numbers of parts and finished rows travel: an actor reads its inputs itself. The files of the index and of the
listing are on the driver's machine, where one more actor, the desk, answers for them. The model goes from the driver
to every machine, so that all of them compute with the version that was asked for.
"""

import contextlib
import importlib.util
import io
import logging
import os
import pickle
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bulk.engine import Job
from bulk.files import missing_extra
from bulk.index import Index
from bulk.items import Slice
from bulk.listing import Listing
from bulk.rows import Parameters
from bulk.scorer import Scorer
from bulk.work import Claimed, Scored
from errors import BulkError
from models.package import StoredModel, open_stored
from runners.cores import available_cores
from serving.options import RunnerOptions

OBJECT_STORE_BYTES = 200 * 2**20
"""Of a cluster that is started here: rows alone go through it."""


class Desk:
    """Answers, on the driver's machine, what a part holds and which inputs are new."""

    def __init__(self, job: Job) -> None:
        import ray

        self._listing = Listing(job.listing_file)
        self._index = Index(job.index_file, job.parts, job.stored.tag, str(job.parameters), job.run)
        self._package = ray.put(packed(job.stored.path))

    def package(self) -> list[Any]:
        """Return where the model's package is, in a list, so that it is not fetched for the answer."""
        return [self._package]

    def slice(self, part: int) -> Slice:
        """Return the slice of a part."""
        return self._listing.slice(part)

    def claim(self, part: int, digests: Sequence[str]) -> list[Claimed]:
        """Return what becomes of inputs, as `Index.claim`."""
        return self._index.claim(part, digests)


class ScoringActor:
    """One core of a cluster: scores the parts whose numbers it is given."""

    def __init__(self, desk: Any, parameters: Parameters, options: RunnerOptions, most_bytes: int) -> None:
        import ray

        self._desk, folder = desk, Path(tempfile.mkdtemp(prefix="vitrine-bulk-"))
        try:
            (package,) = ray.get(desk.package.remote())
            self._scorer = Scorer(unpacked(ray.get(package), folder), parameters, options, 1, most_bytes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the model is in memory now

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score the parts of a batch of Ray Data; each result is a pickle."""
        import numpy as np
        import ray

        def claim(part: int, digests: Sequence[str]) -> Sequence[Claimed]:
            claimed: Sequence[Claimed] = ray.get(self._desk.claim.remote(part, digests)) if digests else ()
            return claimed

        scored = np.empty(len(batch["part"]), object)
        for place, part in enumerate(batch["part"].tolist()):
            items = ray.get(self._desk.slice.remote(part))
            scored[place] = pickle.dumps(self._scorer.score(part, items, claim), pickle.HIGHEST_PROTOCOL)
        return {"scored": scored}


def score_on_ray(job: Job, parts: Sequence[int], address: str | None) -> Generator[Scored, None, None]:
    """Score parts on a cluster, and yield them as they are ready; one that a dead machine had is scored on another.

    Args:
        job: what is scored, and with what.
        parts: their numbers.
        address: HOST:PORT of a cluster's head, or `auto`; None starts a cluster of this machine alone.

    Raises:
        BulkError: the cluster cannot be reached, or scoring failed.
    """
    ray = connected(address, job.stored)
    try:
        yield from _scored(ray, job, parts)
    except (ray.exceptions.RayError, ray.data.exceptions.UserCodeException) as error:
        raise BulkError(f"Ray gave up: {_reason(error)} Run it again with --resume.") from error
    finally:
        ray.shutdown()


def check_ray(address: str | None) -> None:
    """Return if Ray is installed and the address is one of a kind that can be used; BulkError otherwise."""
    if importlib.util.find_spec("ray") is None:
        raise missing_extra("--engine ray and --address need Ray")
    if address is not None and address.startswith("ray://"):
        raise BulkError(
            f"--address {address}: run this on a machine of the cluster, or submit it as a job, and give HOST:PORT of "
            "the head or `auto`; Ray's client cannot be used."
        )


def connected(address: str | None, stored: StoredModel) -> Any:
    """Return the module `ray`, connected to a cluster that has room for a model; the rest as of `score_on_ray`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:  # whoever else is on this machine may not use it; nothing of it is written to a home
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    import ray.data
    import ray.data.exceptions
    import ray.exceptions

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
        package_bytes = sum(path.stat().st_size for path in stored.path.rglob("*"))
        options |= {"object_store_memory": OBJECT_STORE_BYTES + package_bytes}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BulkError(f"--address {address}: there is no cluster that can be used ({error}).") from error
    return ray


def _scored(ray: Any, job: Job, parts: Sequence[int]) -> Generator[Scored, None, None]:
    from ray.data import ActorPoolStrategy, DataContext
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_options.verbose_progress = False
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = (
        ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1).remote(job)
    )
    workers = min(job.workers or int(ray.cluster_resources().get("CPU", 1)), len(parts))
    numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    scored = numbers.map_batches(
        ScoringActor,
        fn_constructor_args=(desk, job.parameters, job.options, job.most_bytes),
        batch_size=1,
        compute=ActorPoolStrategy(size=max(workers, 1), max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    for batch in scored.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=1):
        for blob in batch["scored"]:
            yield pickle.loads(blob)  # of an actor of ours


def packed(package: Path) -> bytes:
    """Return a model's package as an archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(package).as_posix())
    return archive.getvalue()


def unpacked(package: bytes, folder: Path) -> StoredModel:
    """Return the model of an archive that `packed` made, in a folder; its files are compared when it is loaded."""
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        file.extractall(folder)
    return open_stored(folder)


def _reason(error: Exception) -> str:
    """Return the last line of what Ray says, in which the cause stands."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    with contextlib.suppress(IndexError):
        return lines[-1].strip().rstrip(".") + "."
    return type(error).__name__ + "."
