"""Parquet tables of predictions: each photo has one row, whatever is killed and repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fbnetv3.deploy.answer_table import AnswerTable
from fbnetv3.deploy.classify import Prediction

pytestmark = pytest.mark.needs("pyarrow")

PHOTOS = [f"photos/{n:02}.jpg" for n in range(39)] + ["photos/a\udcff\n.jpg"]


def record(photo: str) -> dict[str, Any]:
    if photo == PHOTOS[3]:
        return Prediction(photo, error="damaged").to_dict()
    return Prediction(
        photo, labels=("cat", "dog"), probabilities=(0.75, 0.125), indices=(3, 5)
    ).to_dict()


def filled(path: Path, only: int | None = None, identity: str = "model") -> AnswerTable:
    table = AnswerTable(path, identity, PHOTOS)
    for number, photos in table.missing().items():
        if only is None or number == only:
            table.add(number, [record(photo) for photo in photos])
    return table


def rows_of(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize("name", ["answers.parquet", "answers"])
def test_a_table_has_a_row_for_each_photo_in_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert filled(path).finish() == 1
    rows = rows_of(path)
    assert [row["file"] for row in rows] == [*PHOTOS[:-1], "photos/a\\udcff\n.jpg"]
    assert rows[0] == {
        **{"file": PHOTOS[0], "label": "cat", "probability": 0.75, "none_of_these": None},
        **{"error": None, "labels": ["cat", "dog"], "probabilities": [0.75, 0.125]},
        "indices": [3, 5],
    }
    assert rows[3]["error"] == "damaged"
    assert rows[3]["label"] is None
    assert [found.name for found in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["answers.parquet", "answers"])
def test_another_run_makes_the_missing_parts_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    filled(path, only=1)
    again = AnswerTable(path, "model", PHOTOS)
    assert [(n, len(photos)) for n, photos in again.missing().items()] == [(0, 16), (2, 8)]
    # A part that came twice, from a node that was taken for dead, stands once.
    again.add(1, [record(photo) for photo in PHOTOS[16:32]])
    assert filled(path).finish() == 1
    assert len({row["file"] for row in rows_of(path)}) == len(rows_of(path)) == len(PHOTOS)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    filled(tmp_path / "answers")
    with pytest.raises(ValueError, match="predictions of another model, or for other photos"):
        filled(tmp_path / "answers", identity="another")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="holds other files; expected a new folder"):
        filled(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"expected a name ending in \.parquet, or a folder"):
        filled(tmp_path / "answers.feather")
