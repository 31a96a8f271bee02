"""The tables of MODEL_CARD.md are those that the records give."""

import pytest
from huggingface_hub.repocard import metadata_load

from fbnetv3.hub.weights import WEIGHTS
from tests.modules import benchmark
from tests.paths import ROOT

CARD = ROOT / "MODEL_CARD.md"


def test_the_card_has_not_drifted_from_the_records() -> None:
    module = benchmark("release.model_card")
    text = CARD.read_text()
    assert text == module.render(text), "run: python -m benchmarks.release.model_card"
    for table in ("networks", "weights"):
        with pytest.raises(ValueError, match=table):
            module.render(text.replace(f"<!-- {table} -->", ""))


def test_non_commercial_weights_are_marked_in_the_card() -> None:
    lines = [line for line in CARD.read_text().splitlines() if "`fbnetv3_a.meta_in1k`" in line]
    assert len(lines) == 1
    assert "**non-commercial**" in lines[0]


def test_the_hub_reads_every_weight_with_its_accuracy_and_who_measured_it() -> None:
    data = metadata_load(CARD)
    assert data is not None
    index = {entry["name"]: entry["results"] for entry in data["model-index"]}
    assert set(index) == set(WEIGHTS)
    for name, record in WEIGHTS.items():
        metrics = index[name][0]["metrics"]
        assert metrics[0]["value"] == record.top1_pct
        assert all(record.evaluated_by in metric["name"] for metric in metrics)
        assert len(metrics) == (1 if record.top5_pct is None else 2)
    assert data["license"] == "other"  # some of the weights forbid commercial use
