"""Files that stand in for the official ones are taken as such at their first use."""

from __future__ import annotations

from pathlib import Path

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.checkpoints.convert import to_fbnetv3
from fbnetv3.hub.meaning import check_meaning
from fbnetv3.hub.weights import WEIGHTS
from tests.modules import benchmark


def test_a_stand_in_knows_the_photos_and_has_the_official_layout(tmp_path: Path) -> None:
    script = benchmark("latency.published_files")
    script.write_official(script.stand_in("fbnetv3_a"), tmp_path / "model.pth")
    weights = WEIGHTS["fbnetv3_a.meta_in1k"]
    state = to_fbnetv3(read_tensors(tmp_path / "model.pth"), weights.arch, weights.dialect)
    said = check_meaning(weights, state)
    assert said is not None
    assert "chelsea: tabby" in said
