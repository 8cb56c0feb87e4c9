import json
from pathlib import Path

import pytest

from loadtests.compare.regimes import COMPUTE, OVERHEAD, REGIMES, ROWS, Regime
from loadtests.compare.servers import SERVERS, Server
from settings import Settings


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("cores", [1, 4, 64])
def test_what_vitrine_is_told_is_allowed_whatever_the_machine(
    regime: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = (server for server in SERVERS if server.own)
    _, told = own.start(Path("python"), 3000, Regime(regime, "tiny", Path("."), 1, (), ()), cores)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert Settings().workers == (1 if regime == COMPUTE else min(cores, 16))


SENT_TO = {
    "vitrine": "/models/churn/predict",
    "fastapi": "/predict-row",
    "bentoml": "/predict-row",
    "litserve": "/predict",
    "mosec": "/inference",
    "ray": "/",
    "mlserver": "/v2/models/classifier/infer",
}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_a_row_is_sent_as_json_to_where_the_server_takes_rows(server: Server) -> None:
    regime = Regime(ROWS, "churn", Path("."), 1, (b'{"age": 42.5, "income": 52000}',), ())
    head, _, body = server.request(regime, regime.payloads[0]).partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    assert line == f"POST {SENT_TO[server.name]} HTTP/1.1"
    assert {"Content-Type: application/json", f"Content-Length: {len(body)}"} <= set(fields)
    if server.name != "mlserver":
        assert body == regime.payloads[0]
        return
    assert json.loads(body)["inputs"] == [
        {"name": "age", "shape": [1, 1], "datatype": "FP64", "data": [42.5]},
        {"name": "income", "shape": [1, 1], "datatype": "FP64", "data": [52000]},
    ]


@pytest.mark.parametrize("regime", [COMPUTE, OVERHEAD])
def test_a_picture_is_sent_as_each_servers_clients_send_it(regime: str) -> None:
    asked = Regime(regime, "tiny", Path("."), 1, (b"\xff\xd8picture",), ())
    requests = {server.name: server.request(asked, asked.payloads[0]) for server in SERVERS}
    for name in ("vitrine", "bentoml", "mosec", "ray", "fastapi"):
        assert b"Content-Type: image/jpeg" in requests[name] and b"\xff\xd8picture" in requests[name]
    for name in ("litserve", "mlserver"):
        assert b"Content-Type: application/json" in requests[name] and b'"/9hwaWN0dXJl"' in requests[name]
