"""Choosing a network: the most accurate within the cost of another, counted or measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fbnetv3.hub.published import Published, named, published
from fbnetv3.measure.contenders import (
    backends,
    choose,
    measure_networks,
    read_latencies,
    worth_measuring,
)


def row(name: str, top1: float, macs: int, **more: Any) -> Published:
    return Published(name, "Toy", 224, True, top1, macs, 1, "timm", "MIT")._replace(**more)


SMALL, SAME, LARGE, POOR = (
    row("small.a", 70, 100),
    row("same.a", 75, 200),
    row("large.a", 80, 300),
    row("poor.a", 60, 250),
)
ROWS = (SMALL, SAME, LARGE, POOR)


def test_the_winner_is_the_most_accurate_at_no_more_macs() -> None:
    assert choose(ROWS, POOR).winner == SAME
    assert choose(ROWS, SMALL).winner == SMALL
    assert choose(ROWS).winner == LARGE
    assert choose(ROWS, POOR).front == (SMALL, SAME, LARGE)


def test_latency_makes_another_winner_and_leaves_out_what_has_none() -> None:
    choice = choose(ROWS, SMALL, {("small", 224): 9.0, ("large", 224): 8.0, ("poor", 224): 7.0})
    assert (choice.winner, choice.front) == (LARGE, (POOR, LARGE))
    assert choice.cost(LARGE) == 8.0
    with pytest.raises(ValueError, match="no latency of same at 224 pixels; measured: small@224"):
        choose(ROWS, SAME, {("small", 224): 9.0})


def test_nothing_within_the_limits_is_an_error() -> None:
    with pytest.raises(ValueError, match="no network with published figures is within"):
        choose((), SMALL)


def test_only_what_may_win_is_measured() -> None:
    far = row("far.a", 99, 401)
    cited = row("cited.a", 90, 100, source="Ultralytics")
    better = row("large.b", 81, 300)
    found = worth_measuring((*ROWS, far, cited, better), SAME)
    assert found == [SAME, better]
    assert worth_measuring((*ROWS, better, row("even.a", 78, 250)), SAME, most=2) == [SAME, better]


def test_a_bare_name_is_the_default_of_timm() -> None:
    import timm

    for name in ("efficientnet_b0", "resnet50", "mobilenetv4_conv_medium", "repvit_m1_0"):
        cfg = timm.models.get_pretrained_cfg(name)
        assert cfg is not None
        found = named(name)
        assert (found.name, found.resolution) == (f"{name}.{cfg.tag}", cfg.input_size[1])
    assert named("fbnetv3_a").source == "Meta"
    assert named("resnet50.a1_in1k@288").top1_pct == 81.24


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt50", "did you mean 'resnet50'"),
        ("nothing_like_it_at_all_xyz", "Known are timm's names of EfficientNet"),
        ("resnet50@300", "'resnet50' at 300 pixels; expected one of 160, 176, 224, 288"),
    ],
)
def test_an_unknown_name_is_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(name)


def test_every_row_is_complete() -> None:
    rows = published()
    assert len({(r.name, r.resolution) for r in rows}) == len(rows)
    assert len({r.family for r in rows}) == 13
    assert {r.model[-1] for r in rows if r.source == "Meta"} == set("abcdefg")
    for r in rows:
        assert 50 < r.top1_pct < 90
        assert 1e7 < r.macs < 1.3e10
        assert 1e6 < r.params < 1e8
        assert r.license


def test_networks_are_measured_in_turns_and_read_again(tmp_path: Path) -> None:
    found = measure_networks(
        [named("mobilenetv3_small_050"), named("tf_mobilenetv3_small_minimal_100")],
        backend="torch",
        min_runs=2,
        max_seconds=0.1,
    )
    assert [(r["network"], r["side"]) for r in found] == [
        ("mobilenetv3_small_050", 224),
        ("tf_mobilenetv3_small_minimal_100", 224),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in found))
    times = read_latencies(path, "torch")
    assert times["mobilenetv3_small_050", 224] == found[0]["latency"]["median_ms"]
    with pytest.raises(ValueError, match="in onnxruntime with 1 threads; it has: torch with 1"):
        read_latencies(path)


def test_a_wrong_file_or_backend_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`--latency here --output"):
        read_latencies(tmp_path / "none.jsonl")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"model": "x"}\n')
    with pytest.raises(ValueError, match="is not a file of latencies"):
        read_latencies(wrong)
    with pytest.raises(ValueError, match="backend is 'onnx'; expected one of onnxruntime"):
        measure_networks([named("resnet50")], backend="onnx")
    assert "torch" in backends()
