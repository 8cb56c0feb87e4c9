"""The output's folder: one run at a time, parts that are written whole or not at all, and what is known of each."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atomic_write import atomic_write
from bulk.parts import REPLACED, STATE, Format, encode, part_name, part_numbers
from bulk.rows import Column, Output, overlay_name
from errors import BulkError

RUN = "run.json"
FREE_SPACE = "Nothing is half written. Make room, then run it again with --resume."


class Written(NamedTuple):
    """What is known of a part that lies in the folder: what it is made of, its size, and its counts."""

    digest: str
    size: int
    tally: dict[str, Any]


class OutputFolder:
    """A folder that `opened_folder` has opened.

    Args:
        path: of the folder.
        columns: of the rows.
        form: of the parts.
    """

    def __init__(self, path: Path, columns: Sequence[Column], form: Format) -> None:
        self.path, self._columns, self._form = path, columns, form
        self._log = self.state / "parts.jsonl"
        self.written = self._read_log()

    @property
    def state(self) -> Path:
        """The folder with what a run that goes on needs."""
        return self.path / STATE

    def is_written(self, part: int, digest: str) -> bool:
        """Return whether a part is there and made of what its digest says."""
        known = self.written.get(part)
        if known is None or known.digest != digest:
            return False
        try:
            return (self.path / part_name(part, self._form)).stat().st_size == known.size
        except OSError:
            return False

    def write_part(self, part: int, digest: str, rows: Sequence[Output], tally: dict[str, Any]) -> None:
        """Write a part in one step, in place of what was there, and note it.

        What was there is kept until the run is complete: inputs of parts to come may be answered in it.

        Raises:
            BulkError: the disk is full, or the folder cannot be written to.
        """
        data, name = encode(rows, self._columns, self._form), part_name(part, self._form)
        if part in self.written:  # a kill between the two leaves a part that nobody takes for the old one
            self._note(part, Written("", 0, {}))
        with contextlib.suppress(OSError):  # it is not there, was kept before, or the file system has no links
            os.link(self.path / name, self.state / REPLACED / name)
        with self.writing(), atomic_write(self.path / name) as file:
            file.write(data)
        self._note(part, Written(digest, len(data), tally))

    def _note(self, part: int, known: Written) -> None:
        self.written[part] = known
        with self.writing(), self._log.open("a", encoding="utf-8") as log:
            log.write(_line(part, known))

    def write_overlay(self, version: str, digest: str, picture: bytes) -> None:
        """Write an overlay in one step; errors as of `write_part`."""
        path = self.path / overlay_name(version, digest)
        with self.writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(picture)

    def finish(self, parts: int, version: str) -> None:
        """Delete what the source and the model no longer have: parts beyond the last, overlays of other versions."""
        with self.writing():
            for part in [part for part in part_numbers(self.path, self._form) if part >= parts]:
                (self.path / part_name(part, self._form)).unlink()
            for folder in self.path.glob("overlays/*"):
                if folder.name != version:
                    shutil.rmtree(folder)
            shutil.rmtree(self.state / REPLACED)
        self.written = {part: known for part, known in self.written.items() if part < parts}
        self._write_log()

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write what the folder is the output of."""
        with self.writing(), atomic_write(self.path / RUN) as file:
            file.write((json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an error of writing to the folder into a BulkError."""
        try:
            yield
        except OSError as error:
            raise BulkError(f"--out {self.path}: {error.strerror or error}. {FREE_SPACE}") from error

    def _read_log(self) -> dict[int, Written]:
        """Return what is noted; a line that a kill has cut off is left out, so that its part is checked again."""
        written = dict[int, Written]()
        with contextlib.suppress(FileNotFoundError), self._log.open(encoding="utf-8", errors="replace") as log:
            for line in log:
                with contextlib.suppress(ValueError, TypeError):
                    part, *known = json.loads(line)
                    written[part] = Written(*known)
        return written

    def _write_log(self) -> None:
        with self.writing(), atomic_write(self._log) as file:
            for part, known in self.written.items():
                file.write(_line(part, known).encode())


@contextlib.contextmanager
def opened_folder(
    path: Path, asked: Mapping[str, Any], columns: Sequence[Column], form: Format, *, resume: bool
) -> Iterator[OutputFolder]:
    """Open the folder of a run until the block ends; no other run may be in it meanwhile.

    Args:
        path: of the folder, which is made where it is missing.
        asked: what the run is of, by name: a run that goes on must be of the same.
        columns: of the rows.
        form: of the parts.
        resume: whether to go on with the run that is in it.

    Raises:
        BulkError: another run is in it; or it holds something else, or a run of something else.
    """
    try:
        is_new = not path.exists() or not any(path.iterdir())
        if not is_new and not (path / STATE).is_dir():
            raise BulkError(f"--out {path} is not empty, and holds no run of this command: name another folder.")
        (path / STATE / REPLACED).mkdir(parents=True, exist_ok=True)
        lock = (path / STATE / "lock").open("a+")
    except OSError as error:
        raise BulkError(f"--out {path} cannot be written to: {error.strerror}.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise BulkError(
                f"Another run is in {path} (process {lock.read().strip() or 'unknown'}): wait for it, or name another "
                "folder."
            ) from error
        _check_same(path, asked, resume=resume)
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            for abandoned in path.glob(f".part-*.{form}.*"):  # of a run that was killed
                abandoned.unlink()
            folder = OutputFolder(path, columns, form)
        except OSError as error:
            raise BulkError(f"--out {path}: {error.strerror}. {FREE_SPACE}") from error
        if folder.written:
            folder._write_log()
        yield folder


def _check_same(path: Path, asked: Mapping[str, Any], *, resume: bool) -> None:
    try:
        before = json.loads((path / RUN).read_text("utf-8"))
    except (OSError, ValueError):
        return  # nothing was begun
    if not resume:
        raise BulkError(
            f"--out {path} holds a run of {before.get('model')} over {before.get('source')}. Go on with it by "
            "--resume, or name another folder."
        )
    for name, value in asked.items():
        if before.get(name) != value:
            raise BulkError(
                f"--out {path} holds a run with another {name.replace('_', ' ')}: {before.get(name)!r}, and not "
                f"{value!r}. Resume with the same, or name another folder."
            )


def _line(part: int, known: Written) -> str:
    return json.dumps([part, *known]) + "\n"
