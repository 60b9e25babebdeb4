"""The guard before all routes: the size of a request's body, declared or counted."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.endpoints import guard


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Of an application that takes bodies of 10 bytes."""
    monkeypatch.setattr(guard, "MAX_REQUEST_BYTES", 10)
    app = FastAPI()

    @app.post("/sum")
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    return TestClient(guard.Guard(app, hosts=["testserver"]))


def chunks(text: bytes) -> Iterator[bytes]:
    """Sent without a Content-Length."""
    yield text[:8]
    yield text[8:]


@pytest.mark.parametrize(("text", "status"), [(b"[1, 2, 3]", 200), (b"[1, 2, 3, 4]", 413)])
def test_a_body_is_limited(client: TestClient, text: bytes, status: int) -> None:
    for content in (text, chunks(text)):
        response = client.post("/sum", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == status
        assert status == 200 or response.json() == {"detail": "A request here must have at most 10 bytes."}
    assert client.post("/sum", content=text, headers={"Content-Length": "x"}).status_code == 413


def test_only_this_computer_is_served_by_default(client: TestClient) -> None:
    client.app.hosts = set()  # type: ignore[attr-defined]
    assert client.post("/sum", json=[1]).status_code == 403
