"""Imports point one way: from the service down to what knows of nothing else, as docs/architecture.md draws it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

LEAVES = {"atomic_write", "errors", "regular_file", "backends", "explain", "preprocessing"}
BELOW_CORE = LEAVES | {"models", "postprocessing", "runners"}
CORE = BELOW_CORE | {"serving"}
MAY_IMPORT = {
    "atomic_write": set[str](),
    "errors": set[str](),
    "regular_file": set[str](),
    "backends": {"errors"},
    "explain": {"errors"},
    "preprocessing": {"errors"},
    "models": LEAVES,
    "postprocessing": LEAVES | {"models"},  # a card holds the labels and thresholds of an answer
    "runners": LEAVES,
    "serving": BELOW_CORE,
    "settings": {"errors", "backends"},
    "api": CORE | {"settings"},
    "service": CORE | {"api", "settings"},
    "bulk": CORE | {"settings"},
    "export": CORE,
    "training": CORE | {"export"},
    "tuning": CORE,
    "loadtests": CORE | {"bulk", "settings"},
    "cli": CORE | {"bulk", "export", "loadtests", "settings", "training", "tuning"},
    "deploy": CORE | {"cli", "settings"},
}
"""Room → the other rooms that it may import."""
EXCEPTIONS = {
    ("serving/process.py", "settings"): "it is what one process makes of the settings",
    ("serving/startup.py", "settings"): "it prepares the environment that the settings ask for",
    ("explain/onnx.py", "backends.arena"): "the sessions of a process share one arena, whosever they are",
    ("cli/keys.py", "api.keys"): "the file of keys is the API's",
    ("cli/keys.py", "api.restrictions"): "what the file says of a key is the API's",
    ("cli/serve.py", "api.auth"): "a server that would refuse to start says so before it loads anything",
    ("cli/serve.py", "api.keys"): "the warnings about the file of keys are the API's",
    ("loadtests/bench.py", "training.kidney_stone.data"): "the load is pictures that kidney-stone was made for",
    ("loadtests/bench.py", "training.kidney_stone.phantom"): "the load is pictures that kidney-stone was made for",
    ("loadtests/compare/cheapest.py", "export.importers"): "a model of next to no work is made and imported",
    ("loadtests/fleet/costs.py", "deploy.haproxy.balancer"): "the balancer that is measured is the deployed one",
    ("loadtests/fleet/replicas.py", "deploy.haproxy.balancer"): "the fleet that is measured is the deployed one",
    ("loadtests/fleet/replicas.py", "deploy.haproxy.hosts"): "the fleet that is measured is the deployed one",
    ("loadtests/fleet/replicas.py", "deploy.haproxy.replicas"): "the fleet that is measured is the deployed one",
    ("loadtests/explain.py", "export.onnx"): "both explain graphs are exported, to be compared",
    ("loadtests/row_batches.py", "api.row_answers"): "the writing of the answers is one of the steps that are timed",
    ("loadtests/protocols.py", "api.oip.messages"): "the name of the protocol's header is the API's",
}
"""(file, module) → why the file may import the module all the same."""
BENTOML = {
    "service.py": "it makes the two services",
    "cli/serve.py": "it goes on as `bentoml serve`, in the same process",
    "deploy/container/entrypoint.py": "it is `bentoml serve`, in the process that the container starts",
    "loadtests/compare/peers/bentoml_batching.py": "it is the peer that shows BentoML's own batching",
}
"""File → why it may import BentoML."""


class Import(NamedTuple):
    """A module that a file imports, at its top or inside a function."""

    file: str
    module: str

    @property
    def room(self) -> str:
        """The room of the file."""
        return Path(self.file).parts[0].removesuffix(".py")

    @property
    def target(self) -> str:
        """The room, or the library, of the module."""
        return self.module.partition(".")[0]


def imports() -> Iterator[Import]:
    for room in MAY_IMPORT:
        for path in [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (Import(file, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0 and node.module, f"{file}:{node.lineno} imports relatively"
                    yield Import(file, node.module)


@pytest.fixture(scope="module")
def all_imports() -> list[Import]:
    return sorted(set(imports()))


def test_no_import_points_up_or_sideways(all_imports: list[Import]) -> None:
    against = [
        f"{imported.file} imports {imported.module}"
        for imported in all_imports
        if imported.target in MAY_IMPORT
        and imported.target not in MAY_IMPORT[imported.room] | {imported.room}
        and (imported.file, imported.module) not in EXCEPTIONS
    ]
    assert not against, "\n".join(against)


def test_every_exception_is_still_needed(all_imports: list[Import]) -> None:
    assert {(imported.file, imported.module) for imported in all_imports} >= set(EXCEPTIONS)
    assert {imported.file for imported in all_imports if "bentoml" in imported.target} >= set(BENTOML)


def test_bentoml_is_imported_by_the_service_and_the_store_alone(all_imports: list[Import]) -> None:
    importers = {imported.file for imported in all_imports if "bentoml" in imported.target}
    assert {file for file in importers if not re.fullmatch(r"models/store\w*\.py", file)} <= set(BENTOML)


def test_what_decodes_explains_and_infers_knows_no_web_framework(all_imports: list[Import]) -> None:
    frameworks = {"bentoml", "fastapi", "starlette", "uvicorn", "grpc", "pydantic_settings"}
    assert not [imported for imported in all_imports if imported.room in LEAVES and imported.target in frameworks]


def test_every_room_has_its_arrows() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("*.py")}
    assert rooms - {"tests"} <= set(MAY_IMPORT)
