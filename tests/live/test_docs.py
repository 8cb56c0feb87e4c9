"""The blocks of docs/clients.md, as a reader would paste them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import ROOT
from tests.live.server import Server

BLOCKS = re.findall(r"(?ms)^```(sh|python)\n(.*?)^```", (ROOT / "docs" / "clients.md").read_text())


@pytest.mark.parametrize(("language", "block"), BLOCKS, ids=[f"{at}-{each[0]}" for at, each in enumerate(BLOCKS)])
def test_a_block_of_the_clients_page_works(
    shipped: Server, tmp_path: Path, pictures: list[bytes], language: str, block: str
) -> None:
    (tmp_path / "ct.png").write_bytes(pictures[0])
    code = block.replace("http://127.0.0.1:3000", shipped.url).replace("127.0.0.1:3001", shipped.grpc)
    code = code.replace("127.0.0.1:3000", shipped.url.removeprefix("http://"))
    if "grpcurl" in code and not shutil.which("grpcurl"):
        assert by_reflection(code, tmp_path) in (b"no_stone", b"stone")
        return
    command = (
        [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code.replace("curl ", "curl -sf ")]
    )
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "stone" in ran.stdout


def by_reflection(block: str, folder: Path) -> bytes:
    """What grpcurl does: ask the server for its messages, fill one from the JSON, call. Gives the label."""
    found = re.search(r"-d '(.*)' (\S+) (\S+)/(\w+)", block, re.DOTALL)
    assert found
    said, address, service, method = found.groups()
    encoded = subprocess.run(["base64", "-w", "0", "ct.png"], cwd=folder, capture_output=True, text=True, check=True)
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        call = pool.FindServiceByName(service).methods_by_name[method]
        request = GetMessageClass(call.input_type)()
        json_format.ParseDict(json.loads(said.replace("'$(base64 -w 0 ct.png)'", encoded.stdout)), request)
        answer_class = GetMessageClass(call.output_type)
        remote: Any = channel.unary_unary(
            f"/{service}/{method}", lambda message: message.SerializeToString(), answer_class.FromString
        )
        answer = remote(request, timeout=60)
    place = [each.name for each in answer.outputs].index("label")
    return bytes(answer.raw_output_contents[place][4:])
