"""The engine of one machine: a model in this process, with a lane and a narrow session's run for every core."""

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice

from bulk.engine import Job
from bulk.index import opened_index
from bulk.listing import Listing
from bulk.scorer import Scorer
from bulk.work import Scored

AT_ONCE = 2
"""So many parts are under way, so that the lanes have work while one of them ends."""


def score_here(job: Job, parts: Sequence[int]) -> Generator[Scored, None, None]:
    """Score parts on this machine, and yield them as they are ready.

    Args:
        job: what is scored, and with what.
        parts: their numbers.

    Raises:
        BulkError: the model cannot be used, or the source cannot be read any more.
    """
    scorer = Scorer(job.stored, job.parameters, job.options, job.workers or job.options.cores(), job.most_bytes)
    remaining, pool = iter(parts), ThreadPoolExecutor(AT_ONCE, "bulk-part")
    with (
        closing(Listing(job.listing_file)) as listing,
        opened_index(job.index_file, job.parts, job.stored.tag, str(job.parameters), job.run) as index,
    ):

        def begin(part: int) -> "Future[Scored]":
            return pool.submit(scorer.score, part, listing.slice(part), index.claim)

        try:
            under_way = {begin(part) for part in islice(remaining, AT_ONCE)}
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    under_way |= {begin(part) for part in islice(remaining, 1)}
        finally:
            scorer.stop()
            pool.shutdown(cancel_futures=True)
            scorer.close()
