"""`fbnetv3-search finish`: from a small real search to models that load, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import fbnetv3
from fbnetv3.deploy.confidence import fit_confidence
from fbnetv3.deploy.runtimes import ONNX
from fbnetv3.hub.pretrained_cfg import confidence_of
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.search.cli.app import app
from fbnetv3.search.data.datasets import open_train_val
from fbnetv3.search.finish.card import card
from fbnetv3.search.finish.plan import Final, largest, searched_images
from fbnetv3.search.finish.retrain import Setup, train_finals
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.layout import Layout
from fbnetv3.search.space.space import Space
from fbnetv3.search.training.config import Hardware
from fbnetv3.search.training.evaluate import wilson_pct
from fbnetv3.search.training.recipe import Recipe
from fbnetv3.search.training.stopping import Stopped, StopRequest
from tests.search.tiny import TINY, tiny_images, tiny_recipe


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_images(folder: Path, num: int, seed: int) -> None:
    images = tiny_images(num, seed=seed)
    assert images.pixels is not None
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        path = folder / images.classes[int(label)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of tiny networks with two limits, and its images in `data` beside it."""
    folder = tmp_path_factory.mktemp("finish")
    write_images(folder / "data" / "train", 160, 0)
    write_images(folder / "data" / "val", 60, 1)
    arch = TINY.to_dict()
    arch["rows"][1]["channels"] = "$width"
    recipe = {**tiny_recipe(weight_decay=1e-3).to_dict(), "batch_size": 16, "lr": "$lr"}
    del recipe["schema"], recipe["epochs"]
    genes = (Gene("width", (8, 16)), Gene("lr", (0.004, 0.008), group="recipe"))
    space = Space("tiny", genes, Layout(arch=arch, recipe=recipe))
    (folder / "space.json").write_text(space.to_json())
    done = call("run", folder / "s", "--space", folder / "space.json", "--data", folder / "data",
                "--epochs", 1, "--set", "num_train=64", "--set", 'recipe={"warmup_epochs": 0}',
                "--pool", 4, "--batch", 2, "--rounds", 0, "--predictor", "gp", "--top", 1,
                "--final-seeds", 1, "--limit", "params<=3000", "--limit", "params>=4000",
                "--set", "device=cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder


def finish(searched: Path, *words: object) -> Result:
    return call("finish", searched / "s", "--device", "cpu", "--workers", 0, "--epochs", 2, *words)


@pytest.fixture(scope="module")
def finished(searched: Path) -> tuple[Path, str]:
    """The folder of the final models, and what the command printed."""
    done = finish(searched, "--max-drop", 100)
    assert done.exit_code == 0, done.output
    return searched / "s" / "finals", done.stdout


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def test_each_result_becomes_a_model_with_figures_files_and_a_card(
    finished: tuple[Path, str],
) -> None:
    out, printed = finished
    for name, params in (("0", 2732), ("1", 5068)):
        found = result_of(out / name)
        assert found["params"] == params
        for kind in ("raw", "ema"):
            one = found["accuracy"][kind]
            low, high = wilson_pct(round(one["top1_pct"] * 0.6), 60)
            assert (one["num_images"], one["top1_interval"]) == (60, [low, high])
        assert found["int8"]["written"]
        assert set(found["sha256"]) == {"model.safetensors", "model.onnx", "model_int8.onnx"}
        card = (out / name / "README.md").read_text()
        assert f"{params:,} parameters" in card
        assert "result 1, trained with labels" in card
        assert str(out.parent.parent) not in card
        assert f'fbnetv3.create("local-dir:{out / name}", pretrained=True)' in printed
    assert result_of(out / "0")["limits"] == ["params<=3000"]


def test_a_model_is_what_its_files_say(finished: tuple[Path, str], searched: Path) -> None:
    folder = finished[0] / "0"
    model = fbnetv3.create(f"local-dir:{folder}", pretrained=True)
    _, val_images = open_train_val(searched / "data")
    assert val_images.pixels is not None
    preprocess = Preprocess.from_timm_cfg(model.pretrained_cfg)
    batch = np.stack([preprocess(Image.fromarray(p.numpy())) for p in val_images.pixels])
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(
        ONNX.load(folder / "model.onnx").run_batch(batch), logits, rtol=1e-3, atol=1e-4
    )
    # Temperature and threshold are fitted on the validation images, and go with every file.
    known = fit_confidence(logits, val_images.labels.numpy())
    for found in (
        confidence_of(model),
        *(
            ONNX.load(folder / name).artefact.confidence
            for name in ("model.onnx", "model_int8.onnx")
        ),
    ):
        assert found is not None
        # So short a training knows little: the optimum is flat, and the number of threads moves it.
        assert found.temperature == pytest.approx(known.temperature, rel=5e-2)
        assert found.threshold == pytest.approx(known.threshold, rel=5e-2)
    right = 100 * float(np.mean(logits.argmax(1) == val_images.labels.numpy()))
    assert result_of(folder)["accuracy"]["ema"]["top1_pct"] == pytest.approx(right)


def test_the_recipe_is_the_one_found_at_the_final_length(finished: tuple[Path, str]) -> None:
    recipe = Recipe.from_json((finished[0] / "0" / "recipe.json").read_text())
    assert recipe.epochs == 2
    # Twice the epochs, and 160 images in place of 64.
    assert recipe.weight_decay == pytest.approx(1e-3 / (2 * 160 / 64))


def test_the_same_command_trains_nothing_again(
    finished: tuple[Path, str], searched: Path, tmp_path: Path
) -> None:
    out, printed = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model*")}
    again = finish(searched, "--max-drop", 100)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model*")} == before
    assert "epoch" in printed
    assert again.stdout == "".join(
        line for line in printed.splitlines(keepends=True) if "epoch" not in line
    )


def test_a_model_that_was_stopped_before_its_card_goes_on(
    finished: tuple[Path, str], searched: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    shutil.copytree(finished[0], out)
    (out / "0" / "result.json").unlink()
    again = finish(searched, "--max-drop", 100, "--out", out)
    assert again.exit_code == 0, again.output
    assert result_of(out / "0") == result_of(finished[0] / "0")


def test_other_settings_are_refused_in_the_same_folder(
    finished: tuple[Path, str], searched: Path
) -> None:
    done = finish(searched, "--max-drop", 100, "--seed", 1)
    assert done.exit_code == 2
    assert "was begun with seed=0, and now seed is 1; give the same settings" in done.stderr


def test_one_failing_model_does_not_stop_the_others(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched / "s", tmp_path / "s")
    path = tmp_path / "s" / "answers" / "0" / "recipe.json"
    wild = {**json.loads(path.read_text()), "lr": 100.0, "optimizer": "sgd", "weight_decay": 1.0}
    path.write_text(json.dumps({**wild, "mixup": 0.0}))
    done = finish(tmp_path, "--teacher", "none", "--json", "--out", tmp_path / "o")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["models"]] == ["1"]
    assert "training diverged" in found["failed"]["0"]
    assert "result 0 failed: training diverged" in done.stderr
    assert not (tmp_path / "o" / "teacher").exists()


def test_a_teacher_with_other_classes_is_refused(searched: Path, tmp_path: Path) -> None:
    done = finish(searched, "--teacher", "fbnetv3_nano.cifar10", "--out", tmp_path / "o", "--json")
    assert done.exit_code == 2
    assert "has 10 classes and the student 4" in done.stderr


def test_an_unfinished_search_is_said(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched / "s", tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "answers")
    done = finish(tmp_path)
    assert (done.exit_code, "has no results yet; resume the search" in done.stderr) == (2, True)


def test_the_images_of_a_candidate_are_counted_as_the_objective_splits_them() -> None:
    images, val = tiny_images(1000), tiny_images(100)
    assert searched_images({"kind": "train"}, images, val) == 800
    assert searched_images({"kind": "train", "num_train": 300}, images, val) == 300
    assert searched_images({"kind": "train", "num_classes": 2, "num_val": 50}, images, val) == 450
    assert searched_images({"kind": "python"}, images, val) is None


def test_the_largest_has_the_most_macs_at_its_own_resolution() -> None:
    def final(name: str, **fields: Any) -> Final:
        recipe = tiny_recipe(**fields)
        return Final(name=name, limits=(), network="", arch=TINY, recipe=recipe, searched={})

    finals = [final("a"), final("b", resolution=32), final("c", resolution=16)]
    assert largest(finals).name == "b"


def test_a_stopped_run_saves_its_step_and_the_same_command_resumes(
    searched: Path, tmp_path: Path
) -> None:
    class Stops(StopRequest):
        def check(self) -> None:
            checked.append(None)
            if len(checked) == 3:
                raise Stopped(signal.SIGTERM)

    checked: list[None] = []
    images, val_images = open_train_val(searched / "data")
    recipe = tiny_recipe(epochs=1, warmup_epochs=0.0)
    final = Final(name="0", limits=(), network=str(tmp_path / "arch.json"), arch=TINY,
                  recipe=recipe, searched={})  # fmt: skip
    (tmp_path / "arch.json").write_text(TINY.to_json())
    setup = Setup(out=tmp_path, images=images, val_images=val_images, stop=Stops(),
                  hardware=Hardware.of("cpu"))  # fmt: skip
    with pytest.raises(Stopped):
        train_finals(setup, [final], None)
    assert list((tmp_path / "0" / "checkpoints").glob("*.json"))
    assert train_finals(dataclasses.replace(setup, stop=None), [final], None) == {}
    assert (tmp_path / "0" / "model.safetensors").is_file()


def test_a_card_says_what_is_not_there() -> None:
    one = {"top1_pct": 50.0, "top1_interval": [40.0, 60.0], "num_images": 90}
    result = {
        "name": "0", "limits": ["no limit"], "network": "timm:resnet50", "params": 25_557_032,
        "accuracy": {"raw": {**one, "top5_pct": 90.0, "top5_interval": [80.0, 95.0]}},
        "data": "photos (validation part)", "teacher": None, "seed": 0, "versions": {"torch": "2"},
        "sha256": {},
    }  # fmt: skip
    text = card(result, tiny_recipe())
    assert "timm:resnet50; 25,557,032 parameters." in text
    assert "Not exported" in text
    assert "the search may have seen them" in text
    assert "| raw (`model.safetensors`) | 50.00 (40.00 to 60.00) |" in text
    assert "| teacher | none, labels only |" in text
    refused = {"written": False, "reason": "int8 loses 9.00 points", "max_drop_pct": 1.0}
    assert "no int8 file: int8 loses 9.00 points" in card(
        {**result, "int8": refused, "macs": 1e9, "resolution": 224}, tiny_recipe()
    )


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_two_processes_make_the_same_models_once(searched: Path, tmp_path: Path) -> None:
    port = 20000 + random.SystemRandom().randrange(20000)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    words = [sys.executable, "-m", "fbnetv3.search", "finish", str(searched / "s"), "--device"]
    words += ["cpu", "--epochs", "1", "--teacher", "none", "--out", str(tmp_path), "--workers", "0"]
    started = [
        subprocess.Popen(words, env={**env, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        printed = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0]
    assert printed[1] == ""
    assert printed[0].count("fbnetv3.create(") == 2
    checkpoint = json.loads(next((tmp_path / "0" / "checkpoints").glob("*.json")).read_text())
    assert checkpoint["run"]["processes"] == [2, 1]
