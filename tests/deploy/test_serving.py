"""The FastAPI application of docs/tutorials/deploy.md, under load and with bad uploads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fbnetv3
from benchmarks.release.serving import application
from fbnetv3.deploy.export import Exported
from fbnetv3.images.labels import example_photos

pytestmark = [pytest.mark.needs("fastapi"), pytest.mark.needs("httpx")]


@pytest.fixture
def client(small_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from fastapi.testclient import TestClient

    (tmp_path / "nano.onnx").write_bytes(small_export.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    # FastAPI looks the annotations up where the function says that it was defined.
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(application(), "app.py", "exec"), names)
    return TestClient(names["app"])


def answer(client: Any, content: bytes) -> Any:
    return client.post("/classify", files={"photo": ("photo.jpg", content)})


def test_many_uploads_at_once_get_their_own_answers(client: Any, small_export: Exported) -> None:
    photos = [path.read_bytes() for path in example_photos()]
    expected = [found.to_dict() for found in fbnetv3.load(small_export.path)(photos)]
    assert len({tuple(found["probabilities"]) for found in expected}) == len(photos)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: answer(client, photos[n % len(photos)]), range(48)))
    for number, response in enumerate(found):
        assert response.status_code == 200
        record = expected[number % len(photos)]
        assert response.json()["labels"] == list(record["labels"])
        assert response.json()["probabilities"] == pytest.approx(record["probabilities"], abs=1e-4)


def test_an_upload_that_is_no_photo_is_refused_and_the_next_is_answered(client: Any) -> None:
    photo = example_photos()[0].read_bytes()
    for content in (b"", b"no photo", photo[: len(photo) // 3]):
        response = answer(client, content)
        assert response.status_code == 422
        assert isinstance(response.json()["detail"], str)
    assert client.post("/classify").status_code == 422
    assert answer(client, photo).status_code == 200
