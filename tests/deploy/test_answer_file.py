"""Files of predictions: whole after a kill, equal to what the classifier says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fbnetv3.deploy.answer_file import AnswerFile
from fbnetv3.deploy.classify import Prediction

ANSWERS = [
    Prediction(
        f"photos/{name}",
        labels=("cat", "dog"),
        probabilities=(0.75, 0.125),
        indices=(3, 5),
        none_of_these=none,
    )
    for name, none in (("a.jpg", False), ('b, "b".jpg', True), ("c\udcff\n.jpg", None))
] + [Prediction("photos/d.jpg", error="d.jpg is damaged")]
SOURCES = [answer.source for answer in ANSWERS]


def written(path: Path, answers: list[Prediction] = ANSWERS, identity: str = "model") -> AnswerFile:
    file = AnswerFile(path, identity)
    for answer in answers:
        file.add(answer)
    return file


def test_lines_are_the_predictions(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = written(path)
    file.finish(SOURCES)
    assert file.num_failed == 1
    assert [json.loads(line) for line in path.open()] == [answer.to_dict() for answer in ANSWERS]
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_table_has_the_predictions(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    written(path).finish(SOURCES)
    with path.open(newline="", errors="surrogateescape", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == SOURCES
    assert [row["none_of_these"] for row in rows] == ["0", "1", "", ""]
    assert rows[0]["label"] == "cat"
    assert (float(rows[0]["probability"]), float(rows[0]["probability_2"])) == (0.75, 0.125)
    assert rows[3]["error"] == "d.jpg is damaged"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("cut", range(0, 420, 35))
def test_a_kill_at_any_byte_loses_and_repeats_nothing(
    tmp_path: Path, cut: int, suffix: str
) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"answers{suffix}"
    written(whole).finish(SOURCES)
    written(path).close()
    (part,) = tmp_path.glob(".*.part")
    part.write_bytes(part.read_bytes()[:cut])
    file = AnswerFile(path, "model")
    left = [answer for answer in ANSWERS if answer.source not in file.done]
    assert len(left) + len(file.done) == len(ANSWERS)
    for answer in left:
        file.add(answer)
    file.finish(SOURCES)
    assert file.num_failed == 1
    assert path.read_bytes() == whole.read_bytes()


def test_another_model_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    written(path, ANSWERS[:2]).close()
    assert not AnswerFile(path, "other").done
    assert len(AnswerFile(path, "model").done) == 2


def test_other_suffixes_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name ending in \.csv, \.jsonl or"):
        AnswerFile(tmp_path / "answers.txt", "model")
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        AnswerFile(tmp_path / "a.csv", "model")


def test_a_folder_that_is_not_there_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        AnswerFile(tmp_path / "none" / "answers.csv", "identity")
    assert caught.value.filename == str(tmp_path / "none" / "answers.csv")
