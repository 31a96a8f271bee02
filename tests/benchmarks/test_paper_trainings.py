"""The prepared trainings of the paper's experiments run, resume and report."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from tests.modules import benchmark
from tests.search.tiny import tiny_images


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return benchmark("studies.paper_trainings")


def test_every_network_takes_small_images(study: ModuleType) -> None:
    for network in (
        "alexnet",
        "resnet18",
        "resnext50_32x4d",
        "densenet121",
        "efficientnet_b1",
        "fbnetv3_a",
    ):
        arm = study.Arm(network, study.PAPER)
        recipe = study.recipe_of(arm, 10)
        model, side = study.network_of(arm, recipe, 7, 0)
        with torch.inference_mode():
            assert model.eval()(torch.zeros(1, 3, side, side)).shape == (1, 7), network
        assert 32 <= side <= 36


def test_recipes_are_lengthened(study: ModuleType) -> None:
    found = [study.recipe_of(study.Arm("resnet18", study.SEARCHED), n) for n in (30, 60)]
    assert found[0].weight_decay == pytest.approx(2 * found[1].weight_decay)
    paper = study.recipe_of(study.Arm("fbnetv3_a", study.PAPER), 40)
    assert paper.decay_per_epoch**40 == pytest.approx(0.9875**400)


@pytest.mark.slow
def test_a_finished_training_is_not_run_again(
    study: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part, num in (("train", 128), ("val", 8)):
        images = tiny_images(num)
        assert images.pixels is not None
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            folder = tmp_path / "data" / part / images.classes[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    words = ["recipes", "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    words += ["--epochs", "1", "--seeds", "1", "--only", "resnet18"]
    monkeypatch.setattr(sys, "argv", ["paper_trainings", *words])
    monkeypatch.setattr(study, "KEPT", tmp_path)
    study.main()
    assert "seed 0, resnet18, usual" in capsys.readouterr().out
    table = (tmp_path / "recipes.md").read_text()
    assert [line.split(" | ")[3] for line in table.splitlines()[2:]] == ["usual", "found"]
    study.main()
    assert "seed 0" not in capsys.readouterr().out
    assert (tmp_path / "recipes.md").read_text() == table
