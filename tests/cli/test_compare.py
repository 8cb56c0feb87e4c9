"""`vitrine models compare` against services of Python's own http.server."""

import base64
import email
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models import store
from tests.export.original.pictures import softmax
from tests.tiny import logits_of_plain, plain, tiny_package

LEVELS = (10, 60, 200, 240)
Answer = Callable[[str, bytes], Any]
"""From the content type and the body of a request to the JSON of its answer; an int is a status without one, and a
text an address to which the request is sent on."""


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    """A service that is to be replaced; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            content = answer(self.headers.get("Content-Type", ""), body)
            data = json.dumps(content).encode()
            self.send_response(content if isinstance(content, int) else 307 if isinstance(content, str) else 200)
            if isinstance(content, str):
                self.send_header("Location", content)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predict"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def part(kind: str, body: bytes, name: str) -> bytes:
    """The content of one part of a multipart form."""
    form = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    for entry in form.walk():
        if entry.get_param("name", header="content-disposition") == name:
            return bytes(entry.get_payload(decode=True) or b"")
    raise AssertionError(f"there is no part {name!r}")


def probabilities(picture: bytes) -> dict[str, float]:
    """What the tiny model should give for a plain picture."""
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    level = int(decoded[0, 0, 0])
    return dict(zip(("dark", "bright"), softmax(logits_of_plain(level).astype(np.float64)).tolist(), strict=True))


@pytest.fixture
def pictures(home: Path, tmp_path: Path) -> Path:
    """A folder of pictures for the tiny model, which is installed."""
    store.import_package(tiny_package(tmp_path / "tiny"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for level in LEVELS:
        (folder / f"{level}.png").write_bytes(plain(level))
    return folder


def compare(url: str, *arguments: object, name: str = "tiny") -> Result:
    return CliRunner().invoke(main, ["models", "compare", name, "--against", url, *map(str, arguments)])


def test_a_service_that_answers_the_same_agrees_and_the_report_has_all_figures(tmp_path: Path, pictures: Path) -> None:
    def answer(kind: str, body: bytes) -> Any:
        found = probabilities(part(kind, body, "upload"))
        return {"result": [{"class": max(found, key=found.__getitem__), "scores": list(found.values())}]}

    with service(answer) as url:
        maps = ("--map", "probabilities=result.0.scores", "--map", "label=result.0.class")
        result = compare(url, "--images", pictures, "--field", "upload", *maps, "--json", tmp_path / "report.json")
    assert result.exit_code == 0, result.output
    assert "4, of which both answered 4" in result.output and "They agree (tolerance 0.001)." in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["agree"] and report["kind"] == "probabilities" and report["label_flips"] == []
    assert 0 <= report["difference"]["p50"] <= report["difference"]["max"] < 1e-5
    times = report["median_ms"]
    assert times["there"] > 0 and times["there_over_here"] == pytest.approx(times["there"] / times["here"])


def test_differences_flips_and_errors_of_either_side_are_named_and_the_status_is_1(
    tmp_path: Path, pictures: Path
) -> None:
    def answer(kind: str, body: bytes) -> Any:
        picture = part(kind, body, "file")
        if picture.startswith(b"no picture"):
            return {"dark": 1.0, "bright": 0.0}
        found = probabilities(picture)
        if found["dark"] > 0.9:
            return 500
        return found if found["bright"] > 0.9 else {"dark": found["bright"], "bright": found["dark"]}

    (pictures / "broken.png").write_bytes(b"no picture")
    with service(answer) as url:
        result = compare(url, "--images", pictures, "--json", tmp_path / "report.json")
    assert result.exit_code == 1 and "They do not agree" in result.output
    report = json.loads((tmp_path / "report.json").read_text())
    here = {level: probabilities(plain(level)) for level in LEVELS}
    failed = [f"{level}.png" for level in LEVELS if here[level]["dark"] > 0.9]
    swapped = [level for level in LEVELS if here[level]["dark"] <= 0.9 and here[level]["bright"] <= 0.9]
    assert failed and swapped
    assert {error["example"] for error in report["errors"]} == {"broken.png", *failed}
    assert {flip["example"] for flip in report["label_flips"]} == {f"{level}.png" for level in swapped}
    largest = max(abs(here[level]["dark"] - here[level]["bright"]) for level in swapped)
    assert report["difference"]["max"] == pytest.approx(largest, abs=1e-5)
    assert "500" in result.output and "not an image" in result.output


@pytest.mark.parametrize("send", ["raw", "kserve"])
def test_torchserves_and_kserves_ways_are_one_option(pictures: Path, send: str) -> None:
    def answer(kind: str, body: bytes) -> Any:
        if send == "raw":
            return probabilities(body)
        (instance,) = json.loads(body)["instances"]
        return {"predictions": [probabilities(base64.b64decode(instance["image_bytes"]["b64"]))]}

    with service(answer) as url:
        result = compare(url, "--images", pictures, "--send", send)
    assert result.exit_code == 0, result.output


def test_rows_are_asked_one_by_one_and_without_rows_the_goldens_are(home: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["models", "import", "churn"]).exit_code == 0
    folder = store.find("churn").path / "goldens"
    index = json.loads((folder / "goldens.json").read_text())["goldens"]
    known = {
        json.dumps(json.loads((folder / row["file"]).read_text()), sort_keys=True): np.array(row["logits"])
        for row in index
    }

    def answer(kind: str, body: bytes) -> Any:
        logits = known[json.dumps(json.loads(body)["features"], sort_keys=True)]
        return {"prediction": int(softmax(logits)[1] >= 0.5), "probabilities": softmax(logits).tolist()}

    with service(answer) as url:
        result = compare(url, "--field", "features", name="churn")
        assert result.exit_code == 0, result.output
        assert f"{len(known)}, of which both answered {len(known)}" in result.output
        assert "does not go with churn: give --rows FILE" in compare(url, "--images", tmp_path, name="churn").output


def test_a_key_is_sent_on_within_the_service_and_to_no_other(pictures: Path) -> None:
    bodies = list[bytes]()

    def moved(kind: str, body: bytes) -> Any:
        bodies.append(body)
        return "/predict/" if len(bodies) % 2 else probabilities(part(kind, body, "file"))

    def elsewhere(kind: str, body: bytes) -> Any:
        return url

    with service(moved) as url:
        followed = compare(url, "--images", pictures, "--header", "X-API-Key: secret")
        assert followed.exit_code == 0, followed.output
        asked = len(bodies)
        assert asked >= 2 * len(LEVELS)
        with service(elsewhere) as other:
            refused = compare(other, "--images", pictures, "--header", "X-API-Key: secret")
    assert len(bodies) == asked
    assert refused.exit_code == 1 and f"it leads to {url}, another service" in " ".join(refused.output.split())


def test_what_nothing_can_be_read_from_is_shown_with_the_option_that_helps(pictures: Path) -> None:
    with service(lambda kind, body: {"verdict": {"p": 0.5}}) as url:
        nothing = compare(url, "--images", pictures)
        wrong = compare(url, "--images", pictures, "--map", "probabilities=verdict.q")
    for result in (nothing, wrong):
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        assert "--map FIELD=PATH" in result.output and "'verdict': {'p': 0.5}" in result.output
    assert "at 'q' there is p" in wrong.output
    unreachable = compare(url, "--images", pictures)
    assert unreachable.exit_code == 1 and "ConnectError" in unreachable.output
    for arguments, message in (
        (("--map", "score=a"), "with FIELD one of probabilities"),
        (("--header", "key"), "NAME:VALUE"),
        (("--header", "X-Name: Jörg"), "ASCII characters only"),
        (("--timeout", "nan"), "--timeout nan: give seconds"),
        (("--timeout", "-1"), "Invalid value for '--timeout'"),
        (("--json", pictures / "absent" / "report.json"), "there is no folder"),
        (("--send", "json"), "--send json is for rows"),
    ):
        assert message in compare(url, *arguments).output
    for address in ("127.0.0.1:8000", "http://a..b/predict"):
        assert "is no address" in compare(address, "--images", pictures).output
    store.find("tiny").graph.unlink()
    damaged = compare(url, "--images", pictures)
    assert damaged.exit_code == 1 and "predict.onnx is missing. Run" in damaged.output
