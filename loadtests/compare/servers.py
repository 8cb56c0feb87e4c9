"""Vitrine and its peers, as `servers.toml` beside this module describes them, on this machine."""

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field

from loadtests.compare import wire
from loadtests.compare.regimes import ROWS, Regime
from loadtests.server import ROOT, free_port
from preprocessing.spec import Frozen
from settings import MOST_WORKERS

STORE = ROOT / "runs" / "compare" / "bentoml"
"""The comparison's own model store: two servers must not share one, and the user's is left alone."""

_WRITES: dict[str, wire.Write] = {
    "body": wire.write_body,
    "form": wire.write_form,
    "json": wire.write_json,
    "v2": wire.write_v2,
}
_READS: dict[str, wire.Read] = {"plain": json.loads, "v2": wire.read_v2, "vitrine": wire.read_vitrine}


class Server(Frozen):
    """How one server is run and asked.

    Words in braces in `command` and in environment variables are filled in: `bin`, the folder of the environment's
    programs, `root`, that of the source, `store`, that of the model store, `port`, the free ports `spare` and `other`,
    the number of `cores`, that of `workers` (as many, but no more than Vitrine allows), the name of the `model`, the
    folder of its `package`, and the regime's largest `batch`.

    Attributes:
        name: the name of its requirements and of its environment; `--only` takes it.
        title: its name in tables.
        package: the Python package whose version is shown.
        command: starts it.
        sends: how a request carries the picture, as the server's own clients send it; see `loadtests.compare.wire`.
        to: the path that it is sent to; it may name the `{model}`.
        rows_to: the path that a row as JSON is sent to, where it is another.
        reads: what its answer is.
        settings: environment variables in all regimes.
        only_in: further ones, by regime.
        own: whether this repository's environment and folder run it.
    """

    name: str
    title: str
    package: str
    command: tuple[str, ...]
    sends: Literal["body", "form", "json", "v2"]
    to: str
    rows_to: str = ""
    reads: Literal["plain", "v2", "vitrine"] = "plain"
    settings: dict[str, str] = Field(default_factory=dict)
    only_in: dict[str, dict[str, str]] = Field(default_factory=dict)
    own: bool = False

    def start(self, python: Path, port: int, regime: Regime, cores: int) -> tuple[list[str], dict[str, str]]:
        """Return the command that starts it, and its environment variables."""
        words = {"bin": python.parent, "port": port, "spare": free_port(), "other": free_port(), "cores": cores}
        words |= {"root": ROOT, "store": STORE, "workers": min(cores, MOST_WORKERS)}
        words |= {"model": regime.model, "package": regime.package, "batch": regime.batch}
        common = _FILE["own" if self.own else "peers"]
        settings = common | self.settings | self.only_in.get(regime.name, {})
        filled = {key: value.format(**words) for key, value in settings.items()}
        return [part.format(**words) for part in self.command], filled

    def request(self, regime: Regime, payload: bytes) -> bytes:
        """Encode a request with one of the regime's payloads."""
        write, to = _WRITES[self.sends], self.to
        if regime.name == ROWS:
            write, to = wire.write_v2_row if self.sends == "v2" else wire.write_row, self.rows_to or self.to
        return write(to.format(model=regime.model), payload)

    @property
    def read(self) -> wire.Read:
        """What decodes an answer."""
        return _READS[self.reads]


_FILE = tomllib.loads((ROOT / "loadtests" / "compare" / "servers.toml").read_text("utf-8"))
SERVERS = tuple(Server.model_validate(entry) for entry in _FILE["server"])
