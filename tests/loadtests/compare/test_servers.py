from pathlib import Path

import pytest

from loadtests.compare.regimes import COMPUTE, OVERHEAD, Regime
from loadtests.compare.servers import SERVERS
from settings import Settings


@pytest.mark.parametrize("regime", [COMPUTE, OVERHEAD])
@pytest.mark.parametrize("cores", [1, 4, 64])
def test_what_vitrine_is_told_is_allowed_whatever_the_machine(
    regime: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = (server for server in SERVERS if server.own)
    _, told = own.start(Path("python"), 3000, Regime(regime, "tiny", Path("."), 1, (), ()), cores)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert Settings().workers == (1 if regime == COMPUTE else min(cores, 16))
