"""The command line, as a person types it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models.store import import_package
from tests.conftest import ROOT
from tests.live.server import environment
from tests.tiny import tiny_package


def invoke(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, arguments)


def vitrine(*arguments: str, home: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person does, in a process of its own."""
    command = [str(Path(sys.executable).with_name("vitrine")), *arguments]
    return subprocess.run(
        command, env=environment(home, **settings), cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_help_is_a_page_that_names_the_first_steps(tmp_path: Path) -> None:
    page = vitrine("--help", home=tmp_path).stdout
    for words in ("vitrine serve", "vitrine models list", "VITRINE_", "models", "serve"):
        assert words in page
    listed = invoke("models", "--help").output
    for command in ("list", "show", "import", "verify", "remove"):
        assert command in listed


def help_pages(group: click.Group = main, *path: str) -> Iterator[tuple[str, str]]:
    """Yield every command of the command line, and its help."""
    context = click.Context(group, info_name="vitrine")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), invoke(*path, name, "--help").output
        if isinstance(command, click.Group):
            yield from help_pages(command, *path, name)


def test_no_page_of_help_shows_how_it_was_formatted_and_lists_keep_their_lines() -> None:
    pages = {"": invoke("--help").output, **dict(help_pages())}
    assert {"models add", "explain quality"} <= pages.keys()
    assert not [name for name, page in pages.items() if "\\b" in page]
    lines = [line.split() for line in pages[""].splitlines()]
    assert ["vitrine", "serve"] in [words[:2] for words in lines]
    assert ["vitrine", "models", "list"] in [words[:3] for words in lines]
    assert [words[0] for words in map(str.split, pages["models add"].splitlines()) if words].count("model.mar") == 1


def test_help_loads_neither_bentoml_nor_onnx_runtime() -> None:
    code = (
        "import sys, cli.main; from click.testing import CliRunner; "
        "assert CliRunner().invoke(cli.main.main, ['--help']).exit_code == 0; print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"bentoml", "onnxruntime", "fastapi", "torch"} & set(ran.stdout.split())


def test_a_busy_port_is_one_sentence_with_the_cure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = vitrine("serve", home=tmp_path, VITRINE_PORT=str(port))
    assert ran.returncode == 1
    assert ran.stderr.strip() == (
        f"Error: Port {port} is taken: stop what listens there, or choose another with VITRINE_PORT={port + 1}."
    )


def test_the_port_that_is_advised_is_not_the_other_protocols(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        ran = vitrine("serve", home=tmp_path, VITRINE_PORT=str(port), VITRINE_GRPC_PORT=str(port + 1))
    assert f"VITRINE_PORT={port + 2}." in ran.stderr


def test_a_host_that_is_not_ours_is_not_called_a_busy_port(tmp_path: Path) -> None:
    ran = vitrine("serve", home=tmp_path, VITRINE_HOST="192.0.2.1", VITRINE_ALLOW_ANONYMOUS="true")
    assert ran.returncode == 1
    assert "VITRINE_HOST=192.0.2.1 is no address of this machine" in ran.stderr
    assert "taken" not in ran.stderr


def test_other_machines_are_not_let_in_without_keys(tmp_path: Path) -> None:
    ran = vitrine("serve", home=tmp_path, VITRINE_HOST="0.0.0.0")
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: Other machines reach 0.0.0.0, so keys are needed")
    assert ran.stderr.count("\n") == 1
    lost = vitrine("serve", home=tmp_path, VITRINE_API_KEYS_FILE=str(tmp_path / "keys.toml"))
    assert lost.returncode == 1
    assert f"vitrine keys add NAME --file {tmp_path}/keys.toml" in lost.stderr


def test_a_bad_setting_is_named_without_a_traceback(tmp_path: Path) -> None:
    ran = vitrine("serve", home=tmp_path, VITRINE_PORT="high", VITRINE_PROFILE="prod")
    assert ran.returncode == 1
    assert "VITRINE_PORT='high'" in ran.stderr
    assert "VITRINE_PROFILE='prod'" in ran.stderr
    assert "'development' or 'production'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_model_is_listed_shown_verified_and_removed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stored, _ = import_package(tiny_package(tmp_path / "tiny"))
    listed = invoke("models", "list").output
    assert stored.version in listed
    assert "not installed" in listed
    assert stored.tag in invoke("models", "show", "tiny").output
    assert "as imported" in invoke("models", "verify", stored.tag).output
    stored.graph.write_bytes(stored.graph.read_bytes()[:-1])
    damaged = invoke("models", "verify", "tiny")
    assert damaged.exit_code == 1
    assert "predict.onnx is damaged" in damaged.stderr
    assert invoke("models", "remove", "tiny").stdout.strip() == f"Removed {stored.tag}"
    assert invoke("models", "verify", "tiny").exit_code == 1


def test_an_unknown_model_lists_the_bundled(home: Path) -> None:
    ran = invoke("models", "import", "kidney")
    assert ran.exit_code == 1
    assert "Known: churn, cifar10, imagenet, kidney-stone, machine-anomaly" in ran.stderr


def test_no_tracked_file_names_a_setting_that_does_not_exist() -> None:
    from settings import Settings

    known = {f"VITRINE_{name.upper()}" for name in Settings.model_fields}
    named = {
        line.lstrip("# ").split("=")[0] for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line
    }
    assert {name for name in named if name.startswith("VITRINE_")} == known
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_what_the_system_refuses_is_one_sentence(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "absent" / "churn.toml"
    refused = invoke("models", "export-card", "churn", "--output", str(output))
    assert refused.exit_code == 1 and refused.output == f"Error: {output}: No such file or directory.\n"
    (home / "vitrine").write_text("no folder")
    refused = invoke("models", "remove", "churn")
    assert refused.exit_code == 1 and isinstance(refused.exception, SystemExit)
    assert refused.output.startswith(f"Error: {home / 'vitrine'}"), refused.output
