"""The pages of the documentation, which load nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.api.conftest import MakeClient
from tests.tiny import seal, tiny_package


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/"])
def test_a_page_loads_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200 and "/openapi.json" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'self' ")
    assert "http" not in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert client.get(link).status_code == 200


def test_the_documentation_can_be_switched_off(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), docs=False, loaded=False)
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/files/swagger-ui.css"):
        assert client.get(path).status_code == 404
    assert "/docs" not in client.get("/").json()["endpoints"]
