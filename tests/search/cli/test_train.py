"""The commands `train` and `eval`: one command each on folders, and their errors in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from fbnetv3.checkpoints.checkpoint import read_tensors
from fbnetv3.cli.group import CommandGroup
from fbnetv3.hub.create import create
from fbnetv3.search.cli import eval as cli_eval
from fbnetv3.search.cli import train as cli_train
from fbnetv3.search.cli.progress import Progress
from fbnetv3.search.cli.training_images import CheckLines
from fbnetv3.search.cli.training_recipe import recipe_of
from fbnetv3.search.data.datasets import check_outside
from fbnetv3.search.training.networks import open_network
from fbnetv3.search.training.presets import get_recipe
from tests.search.tiny import TINY, tiny_images

TINY_SET = ["--device", "cpu", "--batch-size", "16", "--epochs", "2", "--lr", "0.01"]


def called(*words: object) -> Result:
    """Returns what a command of the line `fbnetv3 ...` does."""
    app = typer.Typer(cls=CommandGroup)
    app.command("train")(cli_train.train)
    app.command("eval")(cli_eval.evaluate)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Returns a folder of train and val folders of class folders of small images."""
    for part, num, seed in (("train", 96, 0), ("val", 40, 1)):
        images = tiny_images(num, seed=seed)
        assert images.pixels is not None
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            place = tmp_path / "data" / part / images.classes[int(label)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    """Returns the tiny network's table as a file."""
    path = tmp_path / "arch.json"
    path.write_text(TINY.to_json())
    return path


def test_train_then_eval_agree_in_one_command_each(tmp_path: Path, data: Path, arch: Path) -> None:
    run = tmp_path / "run"
    done = called("train", "--data", data, "--model", arch, "--out", run, *TINY_SET)
    assert done.exit_code == 0, done.output
    assert "epoch 2:" in done.output
    measured = {}
    for flags in ([], ["--raw"]):
        found = called("eval", f"local-dir:{run}", "--data", data, "--json", *flags)
        assert found.exit_code == 0, found.output
        measured[bool(flags)] = json.loads(found.output)
    last = json.loads((run / "log.json").read_text())[-1]
    assert measured[False]["top1"] == pytest.approx(last["ema_top1_pct"])
    assert measured[True]["top1"] == pytest.approx(last["top1_pct"])
    assert measured[False]["num_images"] == 40
    assert measured[False]["matched_by"] == "name"
    text = called("eval", f"local-dir:{run}", "--data", data).output
    assert "class3" in text
    assert "95 % interval" in text


def test_one_command_fine_tunes_weights_on_a_folder_without_parts(
    tmp_path: Path, data: Path, arch: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        called("train", "--data", data, "--model", arch, "--out", first, *TINY_SET).exit_code == 0
    )
    command = ["train", "--data", data / "train", "--model", f"local-dir:{first}", "--out", second]
    done = called(*command, "--device", "cpu", "--epochs", "1")
    assert done.exit_code == 0, done.output
    recipe = json.loads((second / "recipe.json").read_text())
    # The preset for 88 images; an eightieth of its rate, as the weights know the classes.
    assert (recipe["batch_size"], recipe["lr"]) == (16, pytest.approx(0.002 / 80))
    before, after = (read_tensors(folder / "model.safetensors") for folder in (first, second))
    name = "stem.conv.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 0.1


def test_a_bare_name_starts_from_trained_weights_that_fit_unless_asked_otherwise(
    tmp_path: Path, data: Path
) -> None:
    words = ["train", "--data", data, "--model", "fbnetv3_nano", "--device", "cpu", "--epochs", "1"]
    words += ["--lr", "1e-5", "--set", "ema=false"]
    tuned = called(*words, "--out", tmp_path / "tuned")
    assert tuned.exit_code == 0, tuned.output
    assert "starting from the trained weights fbnetv3_nano.cifar10" in tuned.output
    assert "fbnetv3_nano.cifar10, trained weights" in tuned.output
    fresh = called(*words, "--out", tmp_path / "fresh", "--from-scratch")
    assert fresh.exit_code == 0, fresh.output
    assert "fbnetv3_nano, fresh weights" in fresh.output
    name = "stem.conv.weight"
    trained = create("fbnetv3_nano.cifar10", pretrained=True).state_dict()[name]
    near, far = (
        (read_tensors(tmp_path / run / "model.safetensors")[name] - trained).abs().max()
        for run in ("tuned", "fresh")
    )
    assert near < 1e-3 < far
    # No class is likelier than another before the first step.
    (epoch,) = json.loads((tmp_path / "tuned" / "log.json").read_text())
    assert epoch["loss"] == pytest.approx(math.log(4), abs=0.01)


def test_classes_and_the_plan_are_printed_before_the_first_step(
    tmp_path: Path, data: Path, arch: Path
) -> None:
    copied = next((data / "train" / "class1").iterdir())
    (data / "val" / "class1" / "again.png").write_bytes(copied.read_bytes())
    done = called("train", "--data", data, "--model", arch, "--out", tmp_path / "run", *TINY_SET)
    assert done.exit_code == 0, done.output
    before = done.output.partition("epoch 1:")[0].splitlines()
    assert "class1      24 train      11 val" in before
    assert f"model   {arch}, fresh weights, 0.01 million parameters" in before
    assert "images  96 to train on, 41 to validate on, 4 classes, 16 x 16 pixels" in before
    assert (
        "recipe  short: 2 epochs of 6 steps of 16 images, sgd with lr 0.01 (it steps at 4 x lr), "
        "augment cutout"
    ) in before
    assert "device  cpu, fp32, images in memory" in before
    assert [line for line in before if line.startswith("time    about 0:00:")]
    assert [line for line in before if "1 of the 41 validation images are in the training" in line]


def test_training_starts_from_a_checkpoint_of_another_tool(
    tmp_path: Path, data: Path, arch: Path
) -> None:
    taught = create(arch, num_classes=10)
    for name, parameter in taught.named_parameters():
        if name.endswith("bn.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    path = tmp_path / "checkpoint.pth.tar"
    raw = {f"module.{name}": tensor for name, tensor in taught.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": raw, "optimizer": {}}, path)
    run = tmp_path / "run"
    options = ["--data", data, "--model", arch, "--checkpoint", path]
    done = called("train", *options, "--out", run, *TINY_SET, "--freeze", "backbone")
    assert done.exit_code == 0, done.output
    assert f"{arch} from {path}, trained weights" in done.output
    start, end = taught.state_dict(), read_tensors(run / "model_raw.safetensors")
    assert torch.equal(end["stem.conv.weight"], start["stem.conv.weight"])
    assert not torch.equal(end["classifier.weight"], start["classifier.weight"])
    judged = open_network(str(arch), pretrained=False, checkpoint=path).model.state_dict()
    assert all(torch.equal(judged[name], tensor) for name, tensor in start.items())
    clash = called("train", *options, "--from-scratch")
    assert "--checkpoint and --pretrained or --from-scratch are both given" in clash.output


@pytest.mark.parametrize("command", ["train", "eval"])
def test_an_output_among_the_images_is_refused(
    tmp_path: Path, data: Path, arch: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "--out" if command == "train" else "--output"
    model = ["--model", arch] if command == "train" else ["fbnetv3_nano.cifar10"]
    monkeypatch.chdir(data / "train")
    for images, output in ((data, data), (data, data / "val" / "run"), (".", "run")):
        found = called(command, *model, "--data", images, option, output)
        assert found.exit_code == 2
        assert f"{option} {output} is in the data folder {images}" in found.output
    # Beside the parts nothing is misread.
    check_outside(data, data / "run", "--out")
    check_outside(data / "train", tmp_path / "run", "--out")


@pytest.mark.parametrize("model", ["torchvision:shufflenet_v2_x0_5", "timm:test_resnet.r160_in1k"])
def test_networks_of_other_libraries_train_by_the_same_command(
    tmp_path: Path, data: Path, model: str
) -> None:
    run = tmp_path / "run"
    command = ["train", "--data", data, "--model", model, "--out", run, "--set", "resolution=32"]
    done = called(*command, *TINY_SET)
    assert done.exit_code == 0, done.output
    found = called("eval", f"local-dir:{run}", "--data", data, "--json")
    assert found.exit_code == 0, found.output
    last = json.loads((run / "log.json").read_text())[-1]
    assert json.loads(found.output)["top1"] == pytest.approx(last["ema_top1_pct"])
    if model.startswith("timm:"):  # once is enough
        again = tmp_path / "again"
        command = ["train", "--data", data, "--model", f"local-dir:{run}", "--out", again]
        done = called(*command, *TINY_SET)
        assert done.exit_code == 0, done.output
        found = called("eval", f"local-dir:{again}", "--data", data, "--json")
        assert found.exit_code == 0, found.output


def test_a_teacher_teaches_and_its_logits_are_kept(tmp_path: Path, data: Path, arch: Path) -> None:
    teacher, student, cache = tmp_path / "t", tmp_path / "s", tmp_path / "logits.safetensors"
    command = ["train", "--data", data, "--model", arch, *TINY_SET]
    assert called(*command, "--out", teacher).exit_code == 0
    command += ["--teacher", f"local-dir:{teacher}", "--teacher-cache", cache, "--out", student]
    refused = called(*command)
    assert refused.exit_code == 2
    assert "augment='none'" in refused.output
    done = called(*command, "--set", "augment=none")
    assert done.exit_code == 0, done.output
    assert read_tensors(cache)["logits"].shape == (96, 4)


@pytest.mark.slow
def test_a_regnety_teaches_as_the_guide_says(tmp_path: Path, data: Path, arch: Path) -> None:
    # Of the same family as the paper's RegNetY-32G, and 45 times smaller.
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    once = [*TINY_SET, "--epochs", "1"]
    command = ["train", "--data", data, "--model", "timm:regnety_002", "--from-scratch"]
    done = called(*command, "--out", teacher, "--set", "resolution=16", *once)
    assert done.exit_code == 0, done.output
    command = ["train", "--data", data, "--model", arch, *once]
    for out, more in ((student, ["--teacher", f"local-dir:{teacher}"]), (tmp_path / "alone", [])):
        assert called(*command, "--out", out, *more).exit_code == 0
    losses = [
        json.loads((out / "log.json").read_text())[0]["loss"]
        for out in (student, tmp_path / "alone")
    ]
    assert losses[0] != losses[1]


def test_a_cache_without_a_teacher_is_refused(tmp_path: Path, data: Path) -> None:
    done = called("train", "--data", data, "--teacher-cache", tmp_path / "c")
    assert done.exit_code == 2
    assert "--teacher" in done.output


def test_a_diverged_training_ends_in_a_verdict(tmp_path: Path, data: Path, arch: Path) -> None:
    command = ["train", "--data", data, "--model", arch, "--out", tmp_path / "run", *TINY_SET]
    done = called(*command, "--lr", "25", "--set", "warmup_epochs=0", "--epochs", "40")
    assert done.exit_code == 1
    assert "training diverged" in done.output
    assert "Lower lr" in done.output
    assert isinstance(done.exception, SystemExit)


def test_a_recipe_from_a_file_is_adapted_to_other_epochs_unless_a_field_is_given(
    tmp_path: Path,
) -> None:
    path = tmp_path / "recipe.json"
    found = dataclasses.replace(get_recipe("short"), epochs=4, warmup_epochs=1.0)
    path.write_text(found.to_json())
    assert recipe_of(str(path), {"epochs": 8}, None) == found.lengthened(8)
    assert recipe_of(str(path), {"epochs": None}, None) == found
    kept = recipe_of(str(path), {"epochs": 8}, ["weight_decay=5e-4"])
    assert kept == dataclasses.replace(found.lengthened(8), weight_decay=5e-4)
    preset = recipe_of("short", {"epochs": 8}, None)
    assert preset == dataclasses.replace(get_recipe("short"), epochs=8)


def test_a_folder_of_another_run_is_refused(tmp_path: Path, data: Path, arch: Path) -> None:
    command = ["train", "--data", data, "--out", tmp_path / "run", *TINY_SET]
    assert called(*command, "--model", arch).exit_code == 0
    done = called(*command, "--model", "torchvision:shufflenet_v2_x0_5", "--set", "resolution=32")
    assert done.exit_code == 2
    assert "of another run" in done.output


def test_without_a_terminal_lines_within_an_epoch_tell_the_time_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Progress(3, silent=False, line_seconds=0.0)
    for done in (1, 2, 3):
        shown.step(2, done, 3)
    silent = Progress(3, silent=True, line_seconds=0.0)
    silent.step(2, 1, 3)
    lines = capsys.readouterr().err.splitlines()
    # After one step nothing is known of the time.
    assert lines[0] == "step 1 of 3 of epoch 2"
    assert len(lines) == 2
    assert re.fullmatch(r"step 2 of 3 of epoch 2, about 0:00:\d\d left", lines[1])


def test_a_long_check_of_files_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown = CheckLines(silent=False, line_seconds=0.0)
    for done in (256, 1024, 1200):
        shown(done, 1200)
    CheckLines(silent=True, line_seconds=0.0)(1, 2)
    CheckLines(silent=False)(1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "checked 256 of 1,200 images",
        "checked 1,024 of 1,200 images",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_saves_its_step_and_says_so_in_one_line(
    tmp_path: Path, data: Path, arch: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    words = ["train", "--data", data, "--model", arch, "--out", run, *TINY_SET, "--epochs", "5000"]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("fbnetv3")), *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has Ctrl-C ignored, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        while not (run / "log.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    (line,) = [text for text in err.splitlines() if "stopped by" in text]
    said = re.fullmatch(
        rf"note: stopped by {number.name} at step (\d) of 6 of epoch (\d+); "
        "a checkpoint was saved, the same command resumes",
        line,
    )
    assert said is not None, line
    step, epoch = map(int, said.groups())
    newest = max((run / "checkpoints").glob("*.json"))
    assert int(newest.stem.removeprefix("step-")) == 6 * (epoch - 1) + step
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model", "fbnetv3_h"], "fbnetv3_h"),
        (["--recipe", "long"], "unknown recipe 'long'"),
        (["--set", "colour=red"], "unknown field 'colour'"),
        (["--set", "lr=fast"], "lr is 'fast'"),
        (["--workers", "many"], "--workers 'many'"),
        (["--precision", "int8"], "precision is 'int8'; expected auto or fp32 or bf16 or fp16"),
        (["--model", "torchvision:alexnet"], "cannot take images of 16 x 16"),
    ],
)
def test_wrong_words_are_answered_in_one_line(
    tmp_path: Path, data: Path, words: list[str], named: str
) -> None:
    done = called("train", "--data", data, "--out", tmp_path / "run", *words)
    assert done.exit_code == 2
    assert named in done.output
    assert not (tmp_path / "run").exists()


def test_a_training_ends_with_honest_probabilities(tmp_path: Path, data: Path, arch: Path) -> None:
    few, enough = tmp_path / "few", tmp_path / "enough"
    line = ["train", "--model", arch, *TINY_SET, "--data"]
    done = called(*line, data, "--out", few)
    assert "probabilities are not calibrated: 40 validation images" in done.output
    assert "confidence" not in json.loads((few / "config.json").read_text())["fbnetv3"]
    done = called(*line, data / "train", "--val-share", "0.6", "--out", enough)
    assert done.exit_code == 0, done.output
    stored = json.loads((enough / "config.json").read_text())["fbnetv3"]["confidence"]
    assert stored["num_images"] >= 50
    assert stored["true_accept_pct"] == pytest.approx(95, abs=2)
    assert "confidence" in json.loads((enough / "best" / "config.json").read_text())["fbnetv3"]
    again = called(*line, data / "train", "--val-share", "0.6", "--out", enough)
    assert again.exit_code == 0, again.output
    assert json.loads((enough / "config.json").read_text())["fbnetv3"]["confidence"] == stored
    # Weights that are trained on from here must not inherit what was fitted for these.
    line[2] = f"local-dir:{enough}"
    assert called(*line, data, "--out", tmp_path / "next").exit_code == 0
    config = json.loads((tmp_path / "next" / "config.json").read_text())
    assert "confidence" not in config["fbnetv3"]


def test_an_image_size_is_that_of_the_run(tmp_path: Path, data: Path, arch: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "--data", data, "--model", arch, "--out", run, *TINY_SET]
    done = called(*words, "--image-size", 24)
    assert done.exit_code == 0, done.output
    assert "24 x 24 pixels" in done.output
    assert json.loads((run / "recipe.json").read_text())["resolution"] == 24
    found = called("eval", f"local-dir:{run}", "--data", data, "--json")
    assert json.loads(found.output)["preprocess"]["crop"] == 24
    refused = called(*words, "--image-size", 5)
    assert refused.exit_code == 2
    assert "'--image-size': 5 is not in the range" in refused.output
