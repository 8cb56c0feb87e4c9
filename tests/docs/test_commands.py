"""Every command block of the documents is run as a reader would paste it, or says why not and is checked otherwise."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
import yaml
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from models.registry import package_folder
from tests.docs.known import check_command, check_setting, commands_of
from tests.docs.pages import BLOCKS, COMMANDS, PAGES, Block, outside_blocks
from tests.live.server import Server, environment

VOLATILE = re.compile(r"(?:.*_ms|.*_seconds|request_id|timestamp|(?:model_)?version|versions|last_inference|uptime.*)$")
"""Fields whose values differ from run to run, or with the weights; their types do not."""
CLOSE = 0.02
"""How far a number may be from the document's: probabilities differ a little between machines."""
MAKE = re.compile(r"(?m)^\s*(?:\w+=\S*\s+)*make\b")
CURL = 'curl() { command curl -sS --fail-with-body "$@"; }\n'


def test_neither_the_server_nor_the_command_line_gets_ready_to_report(
    server: Server, clone: Path, home: Path, person: dict[str, str]
) -> None:
    command = [str(clone / ".venv" / "bin" / "vitrine"), "explain", "picture", "kidney-stone", "ct.png"]
    reader = environment(home, PYTHONPATH=str(clone), **person)
    subprocess.run(command, cwd=clone, env=reader, check=True, capture_output=True)
    assert requests.get(f"{server.url}/health/ready", timeout=30).status_code == 200
    # ONNX Runtime keeps a number of its own there, and what it is about to send.
    assert not [path for path in Path(person["HOME"]).rglob("*") if "Microsoft" in path.parts]


@pytest.mark.parametrize("block", [block for block in COMMANDS if not block.reason], ids=str)
def test_a_block_works_as_it_stands(
    block: Block, server: Server, clone: Path, home: Path, person: dict[str, str]
) -> None:
    text = block.text.replace("127.0.0.1:3001", server.grpc)
    text = text.replace("127.0.0.1:3000", server.url.removeprefix("http://"))
    if "grpcurl" in text and not shutil.which("grpcurl"):
        assert by_reflection(text, clone) in (b"no_stone", b"stone")
        return
    assert not MAKE.search(text), (
        f"{block}: make installs and runs for long: say `<!-- not run by tests: why -->` above"
    )
    command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-ec", CURL + text]
    reader = environment(home, PYTHONPATH=str(clone), **person)
    ran = subprocess.run(
        command, cwd=clone, env=reader, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    answer = json.loads(block.answer) if block.answer else {}
    status = answer.get("status") if isinstance(answer, dict) else None
    refused = isinstance(status, int) and status >= 400
    assert (ran.returncode != 0) == refused, f"{block}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}"
    if block.answer:
        compare(last_json(ran.stdout), answer, str(block))
    if block.page == "docs/clients.md":
        assert "stone" in ran.stdout


@pytest.mark.parametrize("block", [block for block in COMMANDS if block.reason], ids=str)
def test_a_block_that_is_not_run_names_only_what_there_is(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.text)
        return
    parsed = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    for words in commands_of(block.text):
        check_command(words)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in COMMANDS], ids=str)
def test_a_block_that_is_no_command_is_of_a_known_kind(block: Block) -> None:
    assert block.language in ("", "text", "json", "toml", "yaml"), f"{block}: commands are `sh` or `python`"
    assert not block.reason, f"{block}: nothing here to run"
    if block.language == "json":
        json.loads(block.text)
    if block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    if block.language == "toml":
        card = tomllib.loads(block.text)
        card_file = package_folder(card["name"]) / "card.toml"
        assert card == tomllib.loads(card_file.read_text("utf-8")), "another card by now"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_sentence_names_is_there(page: Path) -> None:
    prose = outside_blocks(page)
    for words in map(str.split, re.findall(r"`([^`\s][^`\n]*)`", prose)):
        if words[0] in ("make", "vitrine") or words[0].endswith("/vitrine"):
            check_command([word for word in words if word != "…"])
    for name in re.findall(r"\bVITRINE_\w+", page.read_text("utf-8")):
        check_setting(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", outside_blocks(page)):
        if "://" in target:
            continue
        leads = (page.parent / target).resolve() if target else page
        assert leads.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)$", leads.read_text("utf-8"))
            assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], anchor


def last_json(text: str) -> Any:
    """The last of the JSON documents that were printed one after the other."""
    decoder, at, found = json.JSONDecoder(), 0, None
    while at < len(text.rstrip()):
        found, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
    return found


def compare(got: Any, shown: Any, where: str) -> None:
    """Fail where an answer has another shape than the document shows, or says something else."""
    if shown == "…":
        return
    if VOLATILE.match(where.rpartition(".")[2]) and not isinstance(shown, dict | list | None):
        assert isinstance(got, str) == isinstance(shown, str) and got is not None, f"{where}: {got!r}"
    elif isinstance(shown, dict):
        assert isinstance(got, dict), where
        named = set(shown) - {"…"}
        assert named <= set(got) if "…" in shown else named == set(got), f"{where}: {sorted(named ^ set(got))}"
        for key in named:
            compare(got[key], shown[key], f"{where}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list) and ("…" in shown or len(got) == len(shown)), f"{where}: {got}"
        for index, (one, other) in enumerate(zip(got, shown, strict=False)):
            compare(one, other, f"{where}[{index}]")
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=CLOSE), where
    else:
        assert got == shown, where


def by_reflection(block: str, folder: Path) -> bytes:
    """What grpcurl does: ask the server for its messages, fill one from the JSON, call. Gives the label."""
    match = re.search(r"-d '(.*)' (\S+) (\S+)/(\w+)", block, re.DOTALL)
    assert match
    message_json, address, service, method = match.groups()
    encoded = subprocess.run(["base64", "-w", "0", "ct.png"], cwd=folder, capture_output=True, text=True, check=True)
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        call = pool.FindServiceByName(service).methods_by_name[method]
        request = GetMessageClass(call.input_type)()
        json_format.ParseDict(json.loads(message_json.replace("'$(base64 -w 0 ct.png)'", encoded.stdout)), request)
        answer_class = GetMessageClass(call.output_type)
        remote: Any = channel.unary_unary(
            f"/{service}/{method}", lambda message: message.SerializeToString(), answer_class.FromString
        )
        answer = remote(request, timeout=60)
    place = [output.name for output in answer.outputs].index("label")
    return bytes(answer.raw_output_contents[place][4:])
