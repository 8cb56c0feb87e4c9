"""What tests of bulk scoring share: a store with the tiny model, pictures whose answers are known, the command."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import click.testing

from bulk.command import score
from settings import load_settings
from tests.conftest import ROOT
from tests.live.server import environment
from tests.tiny import logits_of_plain


def probability_of_plain(level: int) -> float:
    """P(bright) of a flat picture of that level, by the softmax of two logits."""
    dark, bright = logits_of_plain(level).astype(float)
    return 1 / (1 + math.exp(dark - bright))


def run_here(*arguments: object) -> click.testing.Result:
    """Run the command in this process."""
    load_settings.cache_clear()
    result = click.testing.CliRunner().invoke(score, list(map(str, arguments)))
    load_settings.cache_clear()
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: object) -> str:
    """Run the command in this process, which must not fail; return what it printed."""
    result = run_here(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*arguments: object) -> str:
    """Run the command in this process, which must say why it fails; return that."""
    result = run_here(*arguments)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return result.output


def begin(home: Path, *arguments: object, **settings: str) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "bulk", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(home, **settings),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]", timeout_s: float = 240) -> str:
    """Wait for the command, which must not fail; return what it printed."""
    printed, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, printed
    return printed


def rows_in(out: Path) -> list[dict[str, Any]]:
    """The rows of all parts in JSON Lines, in their order."""
    return [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.read_bytes().splitlines()]


def parts_in(out: Path) -> list[str]:
    """The names of the parts that are there."""
    return sorted(path.name for path in out.glob("part-*"))


class Pictures:
    """A server of pictures, which holds back those whose names it is told until they are released.

    Attributes:
        fetched: the path of every picture that was asked for, once for each time.
    """

    def __init__(self, pictures: Mapping[str, bytes]) -> None:
        self.pictures, self.fetched = dict(pictures), list[str]()
        self._held, self._changed = set[str](), Condition()
        self.url = ""

    def hold(self, names: Sequence[str]) -> None:
        """Answer those no more."""
        with self._changed:
            self._held = set(names)

    def release(self) -> None:
        """Answer everything."""
        with self._changed:
            self._held = set()
            self._changed.notify_all()

    def get(self, name: str) -> bytes | None:
        """Return a picture once it is not held; None where there is none."""
        with self._changed:
            self.fetched.append(name)
            self._changed.wait_for(lambda: name not in self._held)
        return self.pictures.get(name)


@contextmanager
def serving_pictures(pictures: Mapping[str, bytes]) -> Iterator[Pictures]:
    """Serve pictures on the loopback until the block ends."""
    served = Pictures(pictures)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = served.get(self.path.strip("/"))
            with suppress(OSError):  # who asked may have been killed
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 64

        def handle_error(self, *arguments: object) -> None:
            pass  # who asked was killed

    server = Server(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.release()
        server.shutdown()
        server.server_close()
        thread.join()


def table_of(file: Path, served: Pictures, names: Sequence[str]) -> Path:
    """Write a CSV file of the addresses of pictures."""
    file.write_text("path\n" + "".join(f"{served.url}/{name}\n" for name in names))
    return file


def is_root() -> bool:
    """Return whether this process may mount a file system, as far as its user decides."""
    return os.geteuid() == 0
