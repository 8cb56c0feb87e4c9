"""What both engines are given: the model, what is asked of it, and where the parts are and go."""

from dataclasses import dataclass
from pathlib import Path

from bulk.index import Parts
from bulk.rows import Parameters
from models.package import StoredModel
from serving.options import RunnerOptions


@dataclass(frozen=True)
class Job:
    """One run, as other processes can be told of it.

    Attributes:
        stored: the model.
        parameters: what is asked of it.
        options: what the operator set for every Runner.
        most_bytes: the size of the largest picture that is read.
        listing_file: where every part with its slice is kept.
        index_file: where the index is kept.
        parts: those that lie in the output's folder.
        run: tells this run from the others.
        workers: how many cores, or on a cluster actors; None for all.
    """

    stored: StoredModel
    parameters: Parameters
    options: RunnerOptions
    most_bytes: int
    listing_file: Path
    index_file: Path
    parts: Parts
    run: int
    workers: int | None
