"""One list with several labels per image, through every command that meets it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.search.tiny import TINY, tiny_multi_label
from tests.shell import APPS


def called(*words: object) -> Result:
    return CliRunner().invoke(APPS["fbnetv3"], [str(word) for word in words])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Returns a list of small images with none, one or several labels."""
    rows = ["file,labels,split"]
    for part, num, seed in (("train", 192, 0), ("val", 40, 1)):
        images = tiny_multi_label(num, seed=seed)
        assert images.pixels is not None
        for number, (pixels, labels) in enumerate(zip(images.pixels, images.labels, strict=True)):
            name = f"{part}{number}.png"
            Image.fromarray(pixels.numpy()).save(tmp_path / name)
            names = "|".join(images.classes[n] for n in labels.nonzero().flatten().tolist())
            rows.append(f"{name},{names},{part}")
    path = tmp_path / "list.csv"
    path.write_text("\n".join(rows) + "\n")
    (tmp_path / "arch.json").write_text(TINY.to_json())
    return path


def test_a_list_is_trained_on_evaluated_exported_and_answered_from(
    tmp_path: Path, data: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", "--data", data, "--model", tmp_path / "arch.json", "--out", run]
    words += ["--device", "cpu", "--batch-size", "16", "--epochs", "4", "--lr", "0.2"]
    words += ["--balance", "loss", "--license", "MIT"]
    done = called(*words, "--set", "augment=none")
    assert done.exit_code == 0, done.output
    assert "several labels, separated by '|'" in done.output
    assert "task    multi-label" in done.output
    assert "epoch 4: loss" in done.output
    assert "top1" not in done.output
    assert (run / "curve.png").stat().st_size > 5000
    # Scores that meet thresholds are not smoothed unless somebody asks for it.
    assert json.loads((run / "recipe.json").read_text())["label_smoothing"] == 0.0
    last = json.loads((run / "log.json").read_text())[-1]

    found = called("eval", f"local-dir:{run}", "--data", data, "--json")
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert record["mean_average_precision"] == pytest.approx(last["ema_map_pct"])
    assert record["macro_f1"] == pytest.approx(last["macro_f1_pct"])
    text = called("eval", f"local-dir:{run}", "--data", data).output
    assert "mAP" in text
    assert text.count("from a score of") == 4

    file = tmp_path / "several.onnx"
    assert called("export", f"local-dir:{run}", "-o", file).exit_code == 0
    metadata = {p.key: p.value for p in onnx.load(file).metadata_props}
    # The licence that was stated is in the folder, on its card, with the best epoch, and exported.
    assert metadata["fbnetv3.license"] == "mit"
    assert "license: mit" in (run / "README.md").read_text()
    assert json.loads((run / "best" / "config.json").read_text())["fbnetv3"]["license"] == "mit"
    thresholds = [one["threshold"] for one in record["classes"]]
    assert json.loads(metadata["fbnetv3.thresholds"]) == thresholds
    again = called("eval", file, "--data", data, "--json")
    assert again.exit_code == 0, again.output
    by_file = json.loads(again.stdout)
    assert by_file["macro_f1"] == pytest.approx(record["macro_f1"])
    refused = called("eval", f"local-dir:{run}", "--data", data, "--calibrate")
    assert refused.exit_code == 2
    assert "--calibrate is for networks that give each image one class" in refused.output
    answers = []
    for model in (f"local-dir:{run}", file):
        done = called("classify", tmp_path / "val0.png", "--model", model, "--json")
        assert done.exit_code == 0, done.output
        answers.append(json.loads(done.stdout)["predictions"][0]["labels"])
    assert answers[0] == answers[1]

    small = tmp_path / "int8.onnx"
    words = ["quantize", file, "--calib", data, "--evaluate", data, "-o", small]
    done = called(*words, "--method", "minmax", "--no-sensitivity", "--no-latency")
    assert done.exit_code == 0, done.output
    assert "same classes as fp32 on" in done.output
    assert f"fp32 {last['ema_map_pct']:.2f} %" in done.output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["--task", "multi-label", "--teacher", "fbnetv3_nano.cifar10"],
            "several labels per image",
        ),
        (["--task", "many"], "many"),
    ],
)
def test_what_does_not_fit_several_labels_is_said_in_one_line(
    tmp_path: Path, data: Path, words: list[str], named: str
) -> None:
    command = ["train", "--data", data, "--model", tmp_path / "arch.json", "--device", "cpu"]
    done = called(*command, "--out", tmp_path / "x", *words)
    assert done.exit_code == 2
    assert named in done.output
    assert "Traceback" not in done.output


def test_a_single_label_network_is_not_judged_on_several(data: Path) -> None:
    done = called("eval", "fbnetv3_nano.cifar10", "--data", data)
    assert done.exit_code == 2
    assert "has several labels per image; a network that gives each image one class" in done.output
