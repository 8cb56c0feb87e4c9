"""Sources in an object store: S3 by moto's server, which speaks its protocol on the loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests

from tests.bulk.scoring import begin, end, fail, probability_of_plain, rows_in
from tests.live.server import free_ports, wait_until
from tests.tiny import plain

LEVELS = range(0, 240, 20)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The settings of an S3 that has a bucket of pictures."""
    (port,) = free_ports(1)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            assert server.poll() is None
            try:
                return requests.get(settings["AWS_ENDPOINT_URL"], timeout=5).status_code < 500
            except requests.ConnectionError:
                return False

        wait_until(answers)
        fill(settings)
        yield settings
    finally:
        server.kill()
        server.wait()


def fill(settings: dict[str, str]) -> None:
    """Make the bucket: pictures in two folders, a damaged one, and a table of their addresses."""
    client = boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="eu-central-1",
    )
    client.create_bucket(Bucket="scans", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    keys = [f"study [{level % 40}]/{level:03d}.png" for level in LEVELS]  # whose brackets are no pattern
    for key, level in zip(keys, LEVELS, strict=True):
        client.put_object(Bucket="scans", Key=key, Body=plain(level))
    client.put_object(Bucket="scans", Key="study 0/damaged.png", Body=plain(77)[:40])
    client.put_object(Bucket="scans", Key="study 0/notes.txt", Body=b"none")
    client.put_object(Bucket="scans", Key="empty", Body=b"")
    table = "path\n" + "".join(f"s3://scans/{key}\n" for key in [*keys, "not/there.png", "empty"])
    client.put_object(Bucket="scans", Key="table.csv", Body=table.encode())
    client.close()


@pytest.mark.slow
def test_a_bucket_and_a_table_in_it_give_every_object_its_answer(
    tiny: str, home: Path, tmp_path: Path, s3: dict[str, str]
) -> None:
    asked = ("s3://scans/", "--model", "tiny", "--out", tmp_path / "prefix", "--part-rows", "5")
    prefix = begin(home, *asked, **s3)
    table = begin(home, "s3://scans/table.csv", "--model", "tiny", "--out", tmp_path / "table", **s3)
    assert "1 with an error" in end(prefix) and "2 with an error" in end(table)
    by_level = {int(row["input"][-7:-4]): row for row in rows_in(tmp_path / "prefix") if not row["error"]}
    assert sorted(by_level) == list(LEVELS) and len(rows_in(tmp_path / "prefix")) == len(LEVELS) + 1
    for level, row in by_level.items():
        assert row["input"] == f"s3://scans/study [{level % 40}]/{level:03d}.png"
        assert row["probabilities"]["bright"] == pytest.approx(probability_of_plain(level), abs=1e-6)
    *rows, missing, empty = rows_in(tmp_path / "table")
    assert rows == [by_level[level] for level in LEVELS]
    assert missing["input"] == "s3://scans/not/there.png" and "No such file" in missing["error"]
    assert empty["input"] == "s3://scans/empty" and empty["error"]
    again = begin(
        home, "s3://scans/", "--model", "tiny", "--out", tmp_path / "prefix", "--part-rows", "5", "--resume", **s3
    )
    assert "0 inputs were computed" in end(again)


def test_what_the_extra_brings_is_named_where_it_is_missing(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, asked = tmp_path / "pictures", ("--model", "tiny", "--out", tmp_path / "out")
    pictures.mkdir()
    (pictures / "a.png").write_bytes(plain(3))
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    with monkeypatch.context() as without:
        for module in ("ray", "pyarrow", "pyarrow.parquet", "s3fs"):
            without.setitem(sys.modules, module, None)
        for arguments in (
            ("s3://scans/", *asked),
            (tmp_path / "table.parquet", *asked),
            (pictures, *asked, "--format", "parquet"),
            (pictures, *asked, "--engine", "ray"),
        ):
            assert "requirements/scale.txt" in fail(*arguments)
    assert "no kind of address" in fail("nowhere://x", *asked)
    assert "leave --engine local out" in fail(pictures, *asked, "--engine", "local", "--address", "auto")
    assert "Ray's client cannot be used" in fail(pictures, *asked, "--address", "ray://127.0.0.1:10001")
