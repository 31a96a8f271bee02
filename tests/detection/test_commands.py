"""`fbnetv3 detect`, driven as a user does; errors end in one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.cli import detect as cli_detect
from fbnetv3.cli import detect_train as cli_train
from fbnetv3.detection.detectors import DETECTORS
from fbnetv3.detection.exported import SUFFIXES
from fbnetv3.images.labels import example_photos
from tests.shell import APPS, Done


def detect(*words: str | Path) -> Done:
    ended = CliRunner().invoke(APPS["fbnetv3"], ["detect", *map(str, words)], prog_name="fbnetv3")
    return Done(ended.exit_code, ended.stdout, ended.stderr)


def test_the_words_are_the_librarys() -> None:
    assert cli_detect.SUFFIXES == SUFFIXES
    assert tuple(DETECTORS) == cli_train.KINDS


def test_a_folder_of_boxes_becomes_a_detector(shapes: Path, tmp_path: Path) -> None:
    words = ("train", "--data", shapes, "--model", "fbnetv3_nano", "--size", 64, "--epochs", 1)
    done = detect(*map(str, words), "--batch-size", "5", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "epoch 1: loss" in done.out
    assert f"weights in {tmp_path / 'run' / 'model.safetensors'}" in done.out
    assert "from the weights fbnetv3_nano.cifar10" in done.err
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    again = detect(*map(str, words), "--batch-size", "5", "--out", tmp_path / "run")
    assert again.code == 0
    assert [line for line in again.out.splitlines() if line.startswith("epoch")] == [
        line for line in done.out.splitlines() if line.startswith("epoch")
    ]


def test_a_complete_run_gets_more_epochs_and_nothing_else(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", shapes, "--model", "fbnetv3_nano", "--size", 64, "--out", out]
    words += ["--batch-size", 5, "--freeze", "backbone", "--workers", 0, "--epochs"]
    first = detect(*map(str, [*words, 1]))
    assert first.code == 0, first.err
    assert "5 of its 5 strides frozen" in first.err
    before = read_tensors(out / "model.safetensors")
    longer = detect(*map(str, [*words, 2]))
    assert longer.code == 0, longer.err
    lines = [line for line in longer.out.splitlines() if line.startswith("epoch")]
    assert lines[0] == first.out.splitlines()[0]
    assert len(lines) == 2
    after = read_tensors(out / "model.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("head.") for name in changed)
    assert not any(name.startswith("backbone.body.") for name in changed)
    kept = {path: path.read_bytes() for path in shapes.rglob("*.json")}
    for path, content in kept.items():
        moved = json.loads(content)
        for one in moved["annotations"]:
            one["bbox"][2] -= 1
        path.write_text(json.dumps(moved))
    changed_boxes = detect(*map(str, [*words, 3]))
    for path, content in kept.items():
        path.write_bytes(content)
    assert changed_boxes.code == 2
    assert "of another run: its annotations are different; give another --out" in changed_boxes.err
    other = detect(*map(str, [*words, 3, "--lr", 0.5]))
    assert other.code == 2
    assert "lr 0.0031" in other.err, other.err.split("of another run")[-1]
    assert ", here 0.5; give another --out" in other.err
    assert "(only epochs may grow)" in other.err


def test_two_processes_share_the_batch_and_its_statistics(shapes: Path, tmp_path: Path) -> None:
    # One step of next to nothing, after which the running statistics are those of the batch.
    words = ["train", "--data", shapes, "--model", "fbnetv3_nano", "--size", 64, "--epochs", 1]
    words += ["--batch-size", 4, "--lr", 1e-9, "--set", "weight_decay=0", "--workers", 0]
    assert detect(*map(str, [*words, "--out", tmp_path / "one"])).code == 0
    port = 20000 + random.SystemRandom().randrange(20000)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    program = [sys.executable, "-m", "fbnetv3", "detect", *map(str, words), "--out", "two"]
    runs = [
        subprocess.Popen(
            program,
            cwd=tmp_path,
            env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [run.communicate(timeout=250) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], said
    assert "epoch 1: loss" in said[0][0]
    assert said[1][0] == ""
    one, two = (
        read_tensors(next((tmp_path / name / "checkpoints").glob("*.safetensors")))
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    names = [name for name in one if name.startswith("model.") and "running" in name]
    assert len(names) > 20
    for name in names:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_torchvisions_own_trunk_is_trained_and_loaded_in_the_same_way(
    shapes: Path, tmp_path: Path
) -> None:
    # The recipe of the paper's appendix A.6, on a small image.
    words = ["train", "--data", shapes, "--model", "torchvision:resnet18", "--size", 64]
    words += ["--detector", "retinanet", "--optimizer", "sgd", "--from-scratch", "--epochs", 1]
    words += ["--batch-size", 5, "--set", "layer_decay=0.9", "--workers", 0]
    done = detect(*map(str, [*words, "--out", tmp_path / "run"]))
    assert done.code == 0, done.err
    assert "retinanet on torchvision:resnet18, 64 pixels, from fresh weights" in done.err
    record = json.loads((tmp_path / "run" / "detector.json").read_text())
    assert (record["trunk"], record["arch"]) == ("torchvision:resnet18", None)
    found = detect("predict", example_photos()[0], "--model", tmp_path / "run", "--json")
    assert found.code == 0, found.err


def test_scores_come_with_classes_intervals_and_pictures(
    shapes: Path, trained: Path, tmp_path: Path
) -> None:
    done = detect("eval", trained, "--data", shapes, "--plots", tmp_path / "plots")
    assert done.code == 0, done.err
    assert "95 % interval" in done.out
    assert "disc" in done.out
    assert "in 6 images" in done.out
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == [*(f"000{n}.jpg" for n in range(1, 7)), "precision_recall.png"]
    record = json.loads(detect("eval", trained, "--data", shapes, "--json").out)
    assert set(record["intervals"]) == {"AP", "AP50"}
    assert [one["name"] for one in record["classes"]] == ["box", "disc"]


def test_a_broken_photo_is_named_and_the_others_go_on(trained: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for folder in ("a", "b"):
        (photos / folder).mkdir(parents=True)
        shutil.copy(example_photos()[0], photos / folder / "one.jpg")
    (photos / "broken.jpg").write_text("no image")
    words = ("predict", photos, "--model", trained, "--threshold", "0.02")
    done = detect(*words, "--out", tmp_path / "found")
    assert done.code == 1
    assert "broken.jpg: error: cannot read image" in done.out
    assert "1 of the images could not be read" in done.err
    written = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert written == ["one.jpg", "one_2.jpg", "predictions.json"]
    saved = json.loads((tmp_path / "found" / "predictions.json").read_text())["predictions"]
    printed = json.loads(detect(*words, "--json").out)["predictions"]
    assert [one["objects"] for one in printed] == [one["objects"] for one in saved]
    objects = next(one["objects"] for one in saved if one["error"] is None)
    assert objects[0].keys() == {"class", "score", "box"}


def test_a_training_starts_from_a_trained_detector(
    shapes: Path, trained: Path, tmp_path: Path
) -> None:
    words = (
        "--batch-size",
        "5",
        "--epochs",
        "1",
        "--freeze",
        "backbone",
        "--out",
        tmp_path / "run",
    )
    done = detect("train", "--data", shapes, "--weights", trained, *words)
    assert done.code == 0, done.err
    assert f"64 pixels, from the detector {trained}, 5 of its 5 strides frozen" in done.err
    before, after = (
        read_tensors(folder / "model.safetensors") for folder in (trained, tmp_path / "run")
    )
    backbone = [name for name in after if name.startswith("backbone.body.")]
    assert len(backbone) > 100
    assert all(torch.equal(before[name], after[name]) for name in backbone)


def test_pictures_replace_those_of_a_former_command_and_no_photo(
    trained: Path, tmp_path: Path
) -> None:
    photo = Path(shutil.copy(example_photos()[0], tmp_path / "one.jpg"))
    before = photo.read_bytes()
    for _ in range(2):
        done = detect("predict", photo, "--model", trained, "--out", tmp_path)
        assert done.code == 0, done.err
        assert photo.read_bytes() == before
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["one.jpg", "one_2.jpg", "predictions.json"]
    saved = json.loads((tmp_path / "predictions.json").read_text())["predictions"]
    assert [one["picture"] for one in saved] == [str(tmp_path / "one_2.jpg")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("train", "--data", "none"), 2, "none; expected COCO"),
        (("train", "--data", "SHAPES", "--detector", "yolo"), 2, "detector is 'yolo'; expected"),
        (("train", "--data", "SHAPES", "--size", "3", "--model", "fbnetv3_nano"), 2,
         "size is 3; expected a number of pixels from 32"),
        (("train", "--data", "SHAPES", "--lr", "0", "--model", "fbnetv3_nano"), 2, "lr is 0.0"),
        (("train", "--data", "SHAPES", "--freeze", "6", "--model", "fbnetv3_nano"), 2,
         "--freeze '6' is not understood; expected backbone, or 0 to 5"),
        (("train", "--data", "SHAPES", "--set", "layer_decay=2"), 2, "layer_decay is 2; expected"),
        (("train", "--data", "SHAPES", "--set", "epochs=2"), 2, "--set epochs is no other recipe"),
        (("train", "--data", "SHAPES", "--set", "momentum=2"), 2, "expected one of ema_decay, lay"),
        (("train", "--data", "SHAPES", "--set", "ema_decay=x"), 2, "=x is not understood; expec"),
        (("train", "--data", "SHAPES", "--model", "torchvision:vgg16"), 2,
         "ssdlite has no backbone 'torchvision:vgg16'; expected torchvision:mobilenet_v3_large"),
        (("train", "--data", "SHAPES", "--detector", "faster_rcnn_320_lite", "--model",
          "torchvision:mobilenet_v3_large"), 2, "faster_rcnn_320_lite is for our backbones, not"),
        (("train", "--data", "SHAPES", "--model", "fbnetv3_nano", "--validate-epochs", "0"), 2,
         "validate_epochs is 0; expected a whole number from 1"),
        (("train", "--data", "SHAPES", "--checkpoint-steps", "-1", "--model", "fbnetv3_nano"), 2,
         "checkpoint_steps is -1; expected a whole number from 0"),
        (("train", "--data", "SHAPES", "--seed", "9" * 20, "--model", "fbnetv3_nano"), 2,
         "expected a whole number of 64 bits"),
        (("train", "--data", "SHAPES", "--seed", "9" * 20, "--weights", "RUN"), 2,
         "expected a whole number of 64 bits"),
        (("train", "--data", "SHAPES", "--model", "RUN"), 2, "is a detector; give --weights"),
        (("train", "--data", "SHAPES", "--weights", "RUN", "--model", "fbnetv3_a"), 2,
         "--model and --weights exclude each other; leave out --model"),
        (("train", "--data", "SHAPES", "--weights", "none"), 2, "no none/detector.json; expected"),
        (("eval", "none", "--data", "SHAPES"), 2, "expected the output folder of `fbnetv3 detect"),
        (("eval", "RUN", "--data", "SHAPES", "--threshold", "2"), 2, "--threshold is 2.0; expec"),
        (("predict", "SHAPES", "--model", "RUN", "--threshold", "nan"), 2, "is nan; expec"),
        (("predict", "https://x.org/a.jpg", "--model", "RUN"), 2, "is an address; download the"),
        (("predict", "none.jpg", "--model", "none"), 2, "no such file or folder: none.jpg"),
        (("export", "none", "-o", "x.pt"), 2, "expected the output folder"),
        (("export", "RUN", "-o", "x.pt"), 2, "that ends in .onnx, .xml, .pte or .tflite"),
        (("eval", "RUN", "--data", "SHAPES", "--split", "val"), 2, "split is 'val'; "),
        (("quantize", "RUN", "-o", "x.onnx", "--data", "SHAPES"), 2, "is no ONNX file; quantize a"),
        (("eval", "RUN", "--data", "SHAPES", "--threads", "2"), 2, "--threads is for exported"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(
    words: tuple[str, ...], code: int, said: str, shapes: Path, trained: Path
) -> None:
    given = [{"SHAPES": str(shapes), "RUN": str(trained)}.get(word, word) for word in words]
    done = detect(*given)
    assert done.code == code
    assert said in done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_the_same_command_goes_on(
    shapes: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "fbnetv3", "detect", "train", "--data", str(shapes)]
    words += ["--model", "fbnetv3_nano", "--size", "64", "--batch-size", "2", "--out", "run"]
    words += ["--validate-epochs", "500"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*words, "--epochs", "500"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 250
    while not list(tmp_path.glob("run/checkpoints/*.json")) and time.monotonic() < until:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGTERM)  # as `timeout` and service managers do: workers get it too
    _, err = run.communicate(timeout=200)
    assert run.returncode == 143, err
    assert "a checkpoint was saved, the same command resumes" in err
    assert "Traceback" not in err
