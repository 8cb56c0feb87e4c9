"""The process that reads and converts a model of rows: a request as JSON on its input, its outcome in the package."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from errors import VitrineError
from export.rows.conversion import Converter, Request
from export.rows.importing import OUTCOME


def main() -> None:
    """Convert what the request on standard input asks for."""
    converter = Converter(Request(**json.load(sys.stdin)))
    outcome: dict[str, object] = {"notes": converter.notes}
    try:
        outcome["report"] = asdict(converter.run())
    except VitrineError as error:
        outcome["error"] = str(error)
    (Path(converter.request.package) / OUTCOME).write_text(json.dumps(outcome), "utf-8")


if __name__ == "__main__":
    main()
