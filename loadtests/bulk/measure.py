"""The measurements of `make bench-bulk`: each runs the command, or the loop that it is held against, once."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backends.onnx import OnnxBackend
from loadtests.bulk.cluster import TOKEN, cluster
from loadtests.server import ROOT
from models.card import as_image_card, as_row_card
from models.store import find
from postprocessing.classification import classify, classify_rows
from preprocessing.prepare import prepare
from preprocessing.rows import check_rows

ROWS_A_BATCH = 1000


class Scored(NamedTuple):
    """One run of the command.

    Attributes:
        seconds: of all of it, its start included.
        rate: rows a second between its first part and its last.
        peak_mib: the largest resident memory of its process.
        output_bytes: of all parts.
    """

    seconds: float
    rate: float
    peak_mib: float
    output_bytes: int


def score(source: Path, model: str, *more: str, part_rows: int) -> Scored:
    """Run the command on a source, into a folder that goes afterwards.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "bulk", str(source), "--model", model, "--out", str(out)]
        command += ["--part-rows", str(part_rows), *more]
        began = time.perf_counter()
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **TOKEN}, stdout=file, stderr=file)
        peak_kib = 0
        while process.poll() is None:  # what a child that has ended used most includes what its parent did
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError(log.read_text())
        parts = sorted(out.glob("part-*"), key=lambda path: path.stat().st_mtime_ns)
        counts = [path.read_bytes().count(b"\n") for path in parts]
        times = [path.stat().st_mtime for path in parts]
        between = times[-1] - times[0]
        rate = sum(counts[1:]) / between if between > 0 else float("nan")
        return Scored(seconds, rate, peak_kib / 1024, sum(path.stat().st_size for path in parts))


def _peak_kib(pid: int) -> int:
    """Return the largest resident memory that a process has had so far; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def raw_picture_rate(files: Sequence[Path], model: str, cores: int) -> float:
    """Return pictures a second of plain threads over one session: read, decode, transform, infer, classify."""
    stored = find(model)
    card, backend = as_image_card(stored.card), OnnxBackend(stored.graph)
    remaining, lock = iter(files), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                file = next(remaining, None)
            if file is None:
                return
            tensor = prepare(file.read_bytes(), card.limits, card.input).tensor
            classify(backend.run(tensor[None]).logits[0], card)

    threads = [threading.Thread(target=work) for _ in range(cores)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    backend.close()
    return len(files) / seconds


def raw_row_rate(rows: Sequence[dict[str, float]], model: str) -> float:
    """Return rows a second of one thread: check, transform, infer and classify, a thousand at a time."""
    stored = find(model)
    card, backend = as_row_card(stored.card), OnnxBackend(stored.graph)
    began = time.perf_counter()
    for start in range(0, len(rows), ROWS_A_BATCH):
        checked = check_rows(rows[start : start + ROWS_A_BATCH], card.input)
        classify_rows(backend.run(checked.tensor).logits, card)
    seconds = time.perf_counter() - began
    backend.close()
    return len(rows) / seconds


def write_rows(file: Path, model: str, count: int) -> list[dict[str, float]]:
    """Write different rows of a model whose features are numbers as CSV; return them."""
    card, rng = as_row_card(find(model).card), np.random.default_rng(0)
    features = card.input.features
    factors = rng.uniform(0.5, 1.0, (count, len(features)))
    rows = [
        {
            feature.name: round(float(feature.example) * factor, 6)
            for feature, factor in zip(features, of_row, strict=True)
        }
        for of_row in factors.tolist()
    ]
    lines = [",".join(rows[0]), *(",".join(map(repr, row.values())) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return rows


def ray_rate(source: Path, model: str, nodes: int, part_rows: int) -> float:
    """Return rows a second on a Ray cluster of so many nodes, each bound to a core of its own."""
    with short_folder() as folder, cluster(os.environ, folder, core=0) as started:
        for core in range(1, nodes):
            started.add(core)
        return score(source, model, "--address", started.address, part_rows=part_rows).rate


@contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a short name, which Ray's sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="vr-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def written(figures: dict[str, object], file: Path) -> None:
    """Write figures as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
