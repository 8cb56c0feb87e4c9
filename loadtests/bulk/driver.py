"""What one driver takes on a cluster: claims, equal answers, counting, encoding and writing, without any model."""

import hashlib
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bulk.collector import Collector
from bulk.folder import opened_folder
from bulk.index import Parts, opened_index
from bulk.rows import Output, Parameters, columns_of
from bulk.work import Scored
from models.store import find

PART_ROWS = 1000


class DriverCost(NamedTuple):
    """Figures of the driver's own work.

    Attributes:
        rows_s: rows a second of one core.
        row_bytes: of a row in JSON Lines.
        index_bytes: of the index, a row.
    """

    rows_s: float
    row_bytes: float
    index_bytes: float


def driver_cost(model: str, rows: int) -> DriverCost:
    """Claim and write so many different rows of a classifier of pictures."""
    stored, parameters = find(model), Parameters()
    columns, labels = columns_of(stored, parameters), stored.card.labels
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as name:
        out = Path(name) / "out"
        with opened_folder(out, {}, columns, "jsonl", resume=False) as folder:
            parts, index_file = Parts(out, columns, "jsonl"), folder.state / "index.sqlite"
            with opened_index(index_file, parts, stored.tag, str(parameters), 1) as index:
                collector = Collector(folder, parts, stored, str, lambda done, errors: None)
                seconds = 0.0
                for part in range(rows // PART_ROWS):
                    digests = [hashlib.sha256(f"{part} {place}".encode()).hexdigest() for place in range(PART_ROWS)]
                    made: list[Output] = [
                        {
                            "input": f"/data/study-{part:06d}/slice-{place:06d}.png",
                            "sha256": digest,
                            "label": labels[0],
                            "confidence": 1 - place / 3001,
                            "probabilities": {label: (1 - place / 3001) / len(labels) for label in labels},
                            "warnings": list(stored.card.warnings),
                            "model": stored.tag,
                        }
                        for place, digest in enumerate(digests)
                    ]
                    began = time.process_time()
                    index.claim(part, digests)
                    collector.add(Scored(part, made, {}, PART_ROWS, {}))
                    seconds += time.process_time() - began
            size = sum(path.stat().st_size for path in out.glob("part-*"))
            return DriverCost(rows / seconds, size / rows, index_file.stat().st_size / rows)
