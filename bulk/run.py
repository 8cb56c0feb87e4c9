"""One run, from SOURCE to the finished folder."""

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bulk.collector import Collector
from bulk.engine import Job
from bulk.files import is_url
from bulk.folder import FREE_SPACE, OutputFolder, opened_folder
from bulk.index import Parts
from bulk.listing import Listing
from bulk.local_engine import score_here
from bulk.parts import Format, check_format
from bulk.ray_engine import check_ray, score_on_ray
from bulk.rows import Parameters, columns_of, is_of_pictures
from bulk.source import Source
from bulk.summary import write_summary
from bulk.tally import added, histogram_of
from bulk.work import Scored
from errors import BulkError
from models.package import StoredModel
from serving.options import RunnerOptions

Engine = Literal["local", "ray"]
PART_ROWS, PART_PICTURES = 10_000, 1_000
"""The rows of a part by default: of a model of rows, and of one of pictures."""
Show = Callable[[int, int, int, int], None]
"""Is told rows done and in all, rows with errors, and how many were there before."""


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        source: a path, a glob or an address.
        stored: the model.
        out: the output's folder.
        parameters: what is asked of the model.
        columns: name → column, where a table's columns are not recognised.
        form: of the parts.
        part_rows: the most rows of a part; None for the default.
        resume: whether to go on with the run that is in the folder.
        summary: whether to write a summary.
        engine: where it is computed.
        address: of a cluster; None for one of this machine.
        workers: how many cores; None for all.
        options: what the operator set for every Runner.
        most_bytes: the size of the largest picture that is read.
    """

    source: str
    stored: StoredModel
    out: Path
    parameters: Parameters
    columns: Mapping[str, str]
    form: Format
    part_rows: int | None
    resume: bool
    summary: bool
    engine: Engine
    address: str | None
    workers: int | None
    options: RunnerOptions
    most_bytes: int


@dataclass(frozen=True)
class Report:
    """What became of a run.

    Attributes:
        rows: of all parts.
        errors: how many of them have an error.
        before: how many were there before.
        computed: how many inputs were given to the model now.
        ignored: how many files of the source were left out.
        reasons: how often each kind of error stands there.
    """

    rows: int
    errors: int
    before: int
    computed: int
    ignored: int
    reasons: dict[str, int]


def run(request: Request, show: Show) -> Report:
    """Score all of SOURCE, or what the folder lacks of it.

    Raises:
        BulkError: it cannot begin or go on; what is written stays whole, and `resume` goes on with it.
    """
    try:
        return _run(request, show)
    except sqlite3.Error as error:
        raise BulkError(f"--out {request.out}: {error}. {FREE_SPACE}") from error


def _run(request: Request, show: Show) -> Report:
    stored, out = request.stored, request.out
    if not is_url(request.source) and _is_inside(out, request.source):
        raise BulkError(f"--out {out} lies in SOURCE, which would be scored with it: name another folder.")
    if request.parameters.explain and not is_of_pictures(stored.card):
        raise BulkError(f"--explain draws on pictures; {stored.card.name} takes rows.")
    check_format(request.form)
    if request.engine == "ray":
        check_ray(request.address)
    columns = columns_of(stored, request.parameters)
    asked = _asked(request)
    with opened_folder(out, asked, columns, request.form, resume=request.resume) as folder:
        facts = {**asked, "model": stored.tag, "state": "running"}
        parts = Parts(out, columns, request.form)
        source = Source(request.source, stored.card, request.columns, asked["part_rows"])
        listing_file = folder.state / "listing.sqlite"
        made_with = stored.tag, request.parameters, request.form, sorted(request.columns.items()), request.most_bytes
        digested = " ".join(map(str, made_with))
        listing = Listing.write(listing_file, source.slices(), digested)
        with closing(listing):
            job = Job(
                stored=stored,
                parameters=request.parameters,
                options=request.options,
                most_bytes=request.most_bytes,
                listing_file=listing_file,
                index_file=folder.state / "index.sqlite",
                parts=parts,
                run=time.time_ns(),
                workers=request.workers,
            )
            computed, before = _score(request, job, listing, folder, facts, show, source.ignored)
        counts = added(known.tally for known in folder.written.values())
        folder.write_run({**facts, "state": "complete", "rows": counts["rows"], "errors": counts["errors"]})
        if request.summary:
            with folder.writing():
                write_summary(out, counts, {**facts, "state": "complete"}, histogram_of(stored.card))
    return Report(counts["rows"], counts["errors"], before, computed, source.ignored, counts["reasons"])


def _score(
    request: Request,
    job: Job,
    listing: Listing,
    folder: OutputFolder,
    facts: Mapping[str, Any],
    show: Show,
    ignored: int,
) -> tuple[int, int]:
    """Score the parts that the folder lacks; return how many inputs were computed, and how many rows were there."""
    total, before, todo, count = 0, 0, list[int](), 0
    for part, rows, digest in listing.parts():
        total, count = total + rows, count + 1
        if folder.is_written(part, digest):
            before += rows
        else:
            todo.append(part)
    if not total:
        left_out = f"; {ignored:,} files of other kinds or links to folders are left out" if ignored else ""
        raise BulkError(f"SOURCE {request.source} has nothing that {job.stored.card.name} takes{left_out}.")
    folder.write_run(facts)
    done = [before, 0]
    show(before, total, 0, before)

    def advance(rows: int, errors: int) -> None:
        done[0], done[1] = done[0] + rows, done[1] + errors
        show(done[0], total, done[1], before)

    collector = Collector(folder, job.parts, job.stored, listing.digest, advance)
    if todo:
        with closing(_engine(request, job, todo)) as scored:
            for scored_part in scored:
                collector.add(scored_part)
    collector.check_complete()
    folder.finish(count, job.stored.version)
    return collector.computed, before


def _engine(request: Request, job: Job, todo: list[int]) -> Generator[Scored, None, None]:
    return score_on_ray(job, todo, request.address) if request.engine == "ray" else score_here(job, todo)


def _asked(request: Request) -> dict[str, Any]:
    """Return what a run that goes on must have in common with the one before; the model's version may differ."""
    part_rows = request.part_rows or (PART_PICTURES if is_of_pictures(request.stored.card) else PART_ROWS)
    return {
        "source": request.source,
        "model_name": request.stored.card.name,
        **asdict(request.parameters),
        "columns": dict(request.columns),
        "format": request.form,
        "part_rows": part_rows,
    }


def _is_inside(out: Path, source: str) -> bool:
    """Return whether the output lies in a folder that is a source, or whose subfolders a glob goes through."""
    if "**" in source and not os.path.exists(source):
        source = os.path.dirname(source[: source.index("**")]) or "."
    folder = Path(source).resolve()
    return folder.is_dir() and out.resolve().is_relative_to(folder)
