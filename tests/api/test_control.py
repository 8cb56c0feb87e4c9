"""Triton's clients load and unload models, where they may, over both protocols."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException

from api.keys import add_key
from tests.api.serving import Served, serving
from tests.tiny import plain, seal, tiny_package


@contextmanager
def clients(served: Served) -> Iterator[tuple[Any, Any]]:
    with over_http.InferenceServerClient(f"127.0.0.1:{served.port}") as http:
        with over_grpc.InferenceServerClient(served.grpc) as grpc:
            yield http, grpc


def status(served: Served, key: str = "") -> int:
    headers = {"x-api-key": key} if key else {}
    answer = requests.post(f"{served.url}/models/tiny/predict", data=plain(7), headers=headers, timeout=30)
    return answer.status_code


def test_a_key_of_an_admin_loads_and_unloads_and_no_other_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    reader, admin = add_key(keys, "reader"), add_key(keys, "boss", admin=True)
    with serving(seal(tiny_package(tmp_path / "tiny")), api_keys_file=keys) as served, clients(served) as both:
        for client, refusal in zip(both, ("403", "StatusCode.PERMISSION_DENIED"), strict=True):
            may, may_not = {"x-api-key": admin}, {"x-api-key": reader}
            for call in (client.load_model, client.unload_model):
                with pytest.raises(InferenceServerException, match="'reader' may not load or unload") as refused:
                    call("tiny", headers=may_not)
                assert refused.value.status() == refusal
                with pytest.raises(InferenceServerException, match="A key is needed"):
                    call("tiny")
            assert status(served, reader) == 200
            client.unload_model("tiny", headers=may)
            assert status(served, reader) == 503 and not client.is_model_ready("tiny", headers=may_not)
            (index, *_) = both[0].get_model_repository_index(headers=may_not)
            assert index["state"] == "UNAVAILABLE" and "a client took it out of service" in index["reason"]
            client.load_model("tiny.tensor", headers=may)  # any of its names
            assert status(served, reader) == 200 and client.is_model_ready("tiny", headers=may_not)
            with pytest.raises(InferenceServerException, match="There is no model 'absent' to load") as missing:
                client.load_model("absent", headers=may)
            assert missing.value.status() in ("404", "StatusCode.NOT_FOUND")
            with pytest.raises(InferenceServerException, match=r"send no parameters \(config\)"):
                client.load_model("tiny", headers=may, config="{}")


@pytest.mark.parametrize("is_open", [False, True])
def test_without_keys_the_setting_says_whether_anybody_may(tmp_path: Path, is_open: bool) -> None:
    with (
        serving(seal(tiny_package(tmp_path / "tiny")), model_control=is_open) as served,
        clients(served) as both,
    ):
        for client in both:
            if is_open:
                client.unload_model("tiny")
                assert status(served) == 503
                client.load_model("tiny")
            else:
                with pytest.raises(InferenceServerException, match="VITRINE_MODEL_CONTROL=true"):
                    client.unload_model("tiny")
            assert status(served) == 200


def test_without_keys_no_page_of_another_site_may(tmp_path: Path) -> None:
    friend = "https://ops.example"
    with serving(seal(tiny_package(tmp_path / "tiny")), model_control=True, cors_origins=friend) as served:
        url = f"{served.url}/v2/repository/models/tiny"
        rebound = {"Origin": f"http://evil.example:{served.port}", "Host": f"evil.example:{served.port}"}
        for headers in (*({"Origin": origin} for origin in ("http://evil.example", "null", "http://[")), rebound):
            refused = requests.post(f"{url}/unload", headers=headers, timeout=30)
            assert refused.status_code == 403 and "VITRINE_CORS_ORIGINS" in refused.json()["detail"], refused.text
            assert requests.post(f"{url}/load", headers=headers, timeout=30).status_code == 403
        assert status(served) == 200
        for origin in (served.url, friend):
            assert requests.post(f"{url}/unload", headers={"Origin": origin}, timeout=30).status_code == 200
            assert status(served) == 503
            assert requests.post(f"{url}/load", headers={"Origin": origin}, timeout=30).status_code == 200
