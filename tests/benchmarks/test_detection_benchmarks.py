"""The detection scripts: what they train on, going on after a stop, scores, timed groups."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.integrations.torchvision_backbone import faster_rcnn, ssdlite
from tests.modules import benchmark


@pytest.fixture
def script() -> ModuleType:
    """The script that trains torchvision's detectors."""
    return benchmark("detection.torchvision")


@pytest.fixture
def folder(script: ModuleType, tmp_path: Path) -> Path:
    """Four drawn images."""
    script.main(["draw", str(tmp_path / "shapes"), "--num-images", "4", "--side", "64"])
    return tmp_path / "shapes"


def test_every_image_comes_once_before_any_comes_again(script: ModuleType) -> None:
    whole = list(script.batches(5, 2, range(10), seed=3))
    assert [len(batch) for batch in whole] == [2] * 10
    flat = [place for batch in whole for place in batch]
    epochs = [flat[n : n + 5] for n in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert list(script.batches(5, 2, range(7, 10), seed=3)) == whole[7:]
    assert list(script.batches(5, 2, range(10), seed=4)) != whole


def test_mirrored_boxes_hold_what_they_held(script: ModuleType, folder: Path) -> None:
    from fbnetv3.integrations.coco_folder import CocoFolder

    image, target = CocoFolder(folder, masks=True)[0]
    mirrored, moved = script.flip(image, target)
    assert not torch.equal(moved["boxes"], target["boxes"])
    for before, after in zip(target["boxes"].int(), moved["boxes"].int(), strict=True):
        held = image[:, before[1] : before[3], before[0] : before[2]]
        assert torch.equal(mirrored[:, after[1] : after[3], after[0] : after[2]], held.flip(-1))
    again, back = script.flip(mirrored, moved)
    assert torch.equal(again, image)
    assert all(torch.equal(back[name], value) for name, value in target.items())


def test_a_run_that_stopped_goes_on_and_is_scored(
    script: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = "--model fbnetv3_nano --detector faster_rcnn_c4 --batch-size 2 --steps 3 --save 2"
    arguments += " --warm-up 1 --min-size 64 --max-size 64 --device cpu"

    def train(out: str, more: str = "") -> None:
        given = [*arguments.split(), *more.split()]
        script.main(["train", str(folder), "--out", str(tmp_path / out), *given])

    train("whole")
    step = script.take_step
    calls: list[int] = []

    def stops(*args: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(script, "take_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train("stopped")
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="same settings to go on with it"):
        train("stopped", "--seed 1")
    train("stopped")
    assert len(calls) == 4
    whole, again = (
        read_tensors(tmp_path / out / "model.safetensors") for out in ("whole", "stopped")
    )
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())

    script.main(["eval", str(folder), "--run", str(tmp_path / "whole"), "--device", "cpu"])
    scores = json.loads((tmp_path / "whole" / "scores.json").read_text())
    assert scores["num_images"] == 4
    assert 0 <= scores["AP"] <= scores["AP50"] <= 1


def test_detectors_of_a_group_are_timed_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = benchmark("detection.latency")
    group = {
        "two stages": partial(
            faster_rcnn, "fbnetv3_nano", num_classes=3, out_channels=8, min_size=64, max_size=64
        ),
        "one": partial(ssdlite, "fbnetv3_nano", num_classes=3, size=64),
    }
    monkeypatch.setattr(script, "GROUPS", {"small": group})
    out = tmp_path / "latency.jsonl"
    given = ["--threads", "1", "--min-runs", "1", "--seconds", "1", "--out", str(out)]
    script.main(given)
    script.main(given)
    del group["two stages"]
    script.main([*given, "--runtime", "onnxruntime"])
    both, one, exported = map(json.loads, out.read_text().splitlines())
    assert [row["detector"] for row in (both, one, exported)] == ["two stages", "one", "one"]
    assert [row["runtime"] for row in (one, exported)] == ["torch", "onnxruntime"]
    assert one["num_regions"] is None
    assert 1 < both["num_regions"] <= 1000
    assert exported["macs"] == one["macs"] > 1e6
    assert all(row["latency"]["num_runs"] >= 1 for row in (both, one, exported))


def test_groups_have_our_trunk_and_torchvisions_own() -> None:
    for group in benchmark("detection.latency").GROUPS.values():
        names = [name.startswith("fbnetv3_") for name in group]
        assert any(names)
        assert not all(names)


@pytest.mark.detectron2
def test_detectron2s_entry_trains_and_scores(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 has no release")
    script = benchmark("detection.detectron2")
    settings = {
        "MODEL.WEIGHTS": "",
        "MODEL.DEVICE": "cpu",
        "MODEL.FBNETV3.NORM": "BN",
        "MODEL.FBNETV3.ARCH": "fbnetv3_nano",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": "50",
        "DATALOADER.NUM_WORKERS": "0",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.BASE_LR": "0.01",
        "SOLVER.MAX_ITER": "2",
        "SOLVER.WARMUP_ITERS": "1",
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": "64",
    }
    pairs = [part for pair in settings.items() for part in pair]
    out = tmp_path / "out"

    def run(command: str) -> dict[str, torch.Tensor]:
        given = [command, str(folder), "--config", "faster_rcnn_fbnetv3_a_c4"]
        script.main([*given, "--out", str(out), *pairs])
        saved = torch.load(out / "ema" / "model.pth", weights_only=True)
        tensors: dict[str, torch.Tensor] = saved["model"]
        return tensors

    average = run("train")
    last = torch.load(out / "model_final.pth", weights_only=True)["model"]
    assert not all(torch.equal(average[name], tensor) for name, tensor in last.items())
    # No step is left: what was averaged is read back and written again.
    again = run("train")
    assert all(torch.equal(again[name], tensor) for name, tensor in average.items())
    run("eval")
    scores = json.loads((out / "scores.json").read_text())
    assert "AP50" in scores["percent"]["bbox"]
