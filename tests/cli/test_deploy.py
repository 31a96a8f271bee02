"""The deployment commands, driven as a user does; errors end in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import fbnetv3
from fbnetv3.cli.classify import classify
from fbnetv3.cli.deploy import export
from fbnetv3.cli.group import CommandGroup
from fbnetv3.cli.latency import _best_line, latency
from fbnetv3.cli.quantize import quantize
from fbnetv3.demo.site import build_demo
from fbnetv3.deploy.answer_file import AnswerFile
from fbnetv3.deploy.backend import ExportedBackend
from fbnetv3.deploy.classify import Classifier, Prediction
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.onnx_model import OnnxClassifier
from fbnetv3.deploy.runtimes import RUNTIMES, load, read_artefact
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.images.classes import labelled_images
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.measure.bench import Row, contenders
from fbnetv3.measure.int8_speed import compare_speed, operator_times
from fbnetv3.measure.latency import Latency
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.training.networks import open_exported

APP = typer.Typer(cls=CommandGroup)
for command in (export, quantize, latency, classify):
    APP.command()(command)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        place = folder / f"thing {number % 3}"
        place.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_name_becomes_a_proved_file(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    code, out, err = run(
        "export", "fbnetv3_nano", "--no-pretrained", "-o", path, "--check-target", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["parity"]["top1_agreement"] == 1
    assert found["num_bytes"] == path.stat().st_size
    assert [target["target"] for target in found["targets"]][:1] == ["nnapi"]
    assert read_artefact(path).name == "fbnetv3_nano"


def test_a_folder_is_exported_with_its_weights(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    save_pretrained(
        small_model,
        tmp_path / "mine",
        preprocess=small_preprocess,
        labels=[f"thing {n}" for n in range(10)],
    )
    path = tmp_path / "mine.onnx"
    code, _, err = run("export", f"local-dir:{tmp_path / 'mine'}", "-o", path)
    assert code == 0, err
    assert "fresh" not in err
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    [there] = OnnxClassifier(path)([image])
    [here] = Classifier(f"local-dir:{tmp_path / 'mine'}")([image])
    assert there.labels == here.labels
    np.testing.assert_allclose(there.probabilities, here.probabilities, atol=1e-5)
    # Two folders are two models of a server.
    assert read_artefact(path).name == "mine"
    models = tmp_path / "models"
    code, _, err = run(
        "export", f"local-dir:{tmp_path / 'mine'}", "--triton", models, "--name", "b"
    )
    assert code == 0, err
    assert [found.name for found in models.iterdir()] == ["b"]
    assert read_artefact(models / "b" / "1" / "model.onnx").name == "b"


def test_a_model_without_a_classifier_gives_features_and_no_classes(
    small_model: FBNetV3, small_preprocess: Preprocess, photos: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(small_model)
    model.reset_classifier(0)
    save_pretrained(model, tmp_path / "mine", preprocess=small_preprocess)
    path, mine = tmp_path / "mine.onnx", f"local-dir:{tmp_path / 'mine'}"
    code, _, err = run("export", mine, "-o", path)
    assert code == 0, err
    assert "has no classifier: the file gives 512 features of an image, no classes" in err
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    backend = load(path)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(backend.run_batch(images), expected, atol=1e-4)
    assert backend.artefact.task == "image-feature-extraction"
    for opened in (open_exported, Classifier, lambda path: build_demo(str(path), tmp_path / "x")):
        with pytest.raises(ValueError, match="gives features of an image and no classes"):
            opened(path)
    code, _, err = run("classify", photos, "--model", mine)
    assert (code, err.count("the model has no classifier")) == (2, 1)
    assert run("export", path, "--triton", tmp_path / "models")[0] == 0
    served = sorted(found.name for found in (tmp_path / "models" / "mine").iterdir())
    assert served == ["1", "config.pbtxt"]
    assert "labels" not in (tmp_path / "models" / "mine" / "config.pbtxt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".onnx", pytest.param(".xml", marks=pytest.mark.needs("openvino"))]
)
def test_size_batch_and_classes_are_options_that_the_file_states(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    code, out, err = run(
        "export", "fbnetv3_nano.cifar10", "-o", path, "--image-size", 48, "--batch-size", 4,
        "--num-classes", 7, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "the classifier of 7 classes is new, not trained" in err
    found = json.loads(out)
    parts = sorted(tmp_path.iterdir())
    assert sorted(found["sha256"]) == [part.name for part in parts]
    assert found["num_bytes"] == sum(part.stat().st_size for part in parts)
    loaded = fbnetv3.load(path)
    artefact = loaded.artefact
    assert artefact is not None
    assert isinstance(loaded.backend, ExportedBackend)
    assert (artefact.num_classes, artefact.batch_size) == (7, 4)
    assert (artefact.preprocess.crop, artefact.preprocess.resize) == (48, 48)
    assert artefact.class_names == ()
    assert loaded.backend.input_shape == (4, 3, 48, 48)
    photos = [Image.fromarray(np.full((60, 50, 3), 20 * n, np.uint8)) for n in range(6)]
    at_once, alone = loaded(photos), [loaded(photo) for photo in photos]
    for one, other in zip(at_once, alone, strict=True):
        assert one.labels == other.labels
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    if suffix == ".onnx":
        folder = tmp_path / "photos"
        folder.mkdir()
        photos[0].save(folder / "0.png")
        code, _, err = run("quantize", path, "--calib", folder, "-o", tmp_path / "int8.onnx")
        assert (code, err.count("takes batches of 4 only")) == (2, 1)
        code, out, err = run("latency", path, "--threads", 1, "--seconds", 0.2, "--json")
        assert code == 0, err
        assert {row["batch"] for row in json.loads(out)} == {4}


def test_a_file_is_quantised_and_the_speed_is_said(
    small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    code, out, err = run(
        "quantize", small_export.path, "--calib", photos, "--evaluate", photos, "-o", path,
        "--method", "minmax", "--no-sensitivity",
    )  # fmt: skip
    assert code == 0, err
    assert "ranges by minmax over 12 images" in out
    assert "top-1" in out
    assert "x smaller" in out
    assert ("SMALLER BUT NOT FASTER" in out) == ("whole blocks in int8" in out)
    assert read_artefact(path).precision == "int8"
    times = operator_times(path)
    assert times["QLinearConv"] > 0
    report = compare_speed(small_export.path, path, max_seconds=2)
    backends = {row.backend for row in report.rows}
    assert {"onnxruntime", "onnxruntime-int8"} <= backends


def test_an_exported_file_goes_to_a_server_or_another_format(
    small_export: Exported, tmp_path: Path
) -> None:
    code, out, err = run("export", small_export.path, "--triton", tmp_path / "models", "--json")
    assert (code, err) == (0, "")
    served = Path(json.loads(out)["path"])
    assert served.read_bytes() == small_export.path.read_bytes()
    int8 = tmp_path / "int8.onnx"
    proto = onnx.load(small_export.path)
    artefact = dataclasses.replace(small_export.artefact, precision="int8", parity={})
    onnx.helper.set_model_props(proto, artefact.to_metadata())
    onnx.save(proto, int8)
    code, out, err = run("export", int8, "--triton", tmp_path / "models")
    assert (code, err) == (0, "")
    second = served.parents[1] / "2" / served.name
    assert out.startswith(f"{second}: ")
    assert second.read_bytes() == int8.read_bytes()
    if RUNTIMES["openvino"].available():
        code, out, err = run("export", small_export.path, "-o", tmp_path / "x.xml")
        assert (code, err) == (0, "")
        assert "same top-1 on 100 %" in out
        code, _, err = run("export", int8, "-o", tmp_path / "y.xml")
        assert (code, err.count("is int8; convert a float file")) == (2, 1)


def test_latency_prints_rows_and_the_best(small_export: Exported, photos: Path) -> None:
    code, out, err = run(
        "latency", small_export.path, "--images", photos, "--threads", 1, "--batch", 1, "--batch",
        4, "--seconds", 1, "--best", "--json",
    )  # fmt: skip
    assert code == 0, err
    best = json.loads(out)
    assert best["keeps_accuracy"]
    assert best["num_images"] == 12
    added = {"keeps_accuracy", "decision", "tied_with"}
    assert set(best) == set(Row.__dataclass_fields__) | added


def test_latency_at_another_image_size(small_export: Exported) -> None:
    words = ("--threads", 1, "--seconds", 0.2, "--min-runs", 2, "--json", "--image-size", 64)
    code, out, err = run("latency", "fbnetv3_nano.cifar10", "--backend", "torch", *words)
    assert code == 0, err
    rows = json.loads(out)
    assert {row["backend"] for row in rows} == {"onnxruntime", "torch"}
    assert {row["image_size"] for row in rows} == {64}
    assert rows[0]["macs_paper"] > 3 * small_export.artefact.macs_paper
    code, _, err = run("latency", small_export.path, *words)
    assert code == 2
    assert "is a file for its own size; export the model with --image-size" in err


def test_latency_looks_at_the_images_before_it_exports(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in (("absent", "absent"), ("empty", "no images in")):
        code, out, err = run("latency", "no_such_model", "--images", tmp_path / folder)
        assert (code, out) == (2, "")
        assert words in err


def latency_of(median_ms: float, *, spread_ms: float = 0.1, verdict: str = "ok") -> Latency:
    figures = dict.fromkeys(("min_ms", "p90_ms", "p99_ms", "cpu_ms", "first_ms"), median_ms)
    return Latency(
        name="x",
        num_runs=100,
        median_ms=median_ms,
        low_ms=median_ms - spread_ms,
        high_ms=median_ms + spread_ms,
        num_warmup=5,
        verdict=verdict,
        **figures,
    )


def row_of(threads: int, latency: Latency) -> Row:
    return Row(
        model="nano",
        backend="onnxruntime",
        precision="fp32",
        threads=threads,
        device="cpu",
        batch=1,
        image_size=32,
        latency=latency,
        images_per_s=1.0,
        artefact_sha256="",
        num_bytes=None,
        agreement_pct=None,
        top1_pct=None,
        top1_float_pct=None,
        num_images=0,
        peak_mib=None,
        macs_paper=1,
        params=1,
    )


@pytest.mark.parametrize(
    ("latencies", "line"),
    [
        ([latency_of(2.0), latency_of(1.0)], "nano by onnxruntime with 2 threads, batch 1"),
        (
            [latency_of(1.1), latency_of(1.0), latency_of(1.3)],
            "a tie of nano by onnxruntime with 2 threads, batch 1 and "
            "nano by onnxruntime with 1 thread, batch 1",
        ),
        ([latency_of(2.0), latency_of(1.0, verdict="noisy")], "too noisy to say; "),
        ([latency_of(2.0, verdict="noisy"), latency_of(1.0)], "nano by onnxruntime with 2"),
    ],
    ids=["best", "tie", "noisy", "noisy but slower"],
)
def test_the_best_backend_is_named_only_if_it_is_known(latencies: list[Latency], line: str) -> None:
    rows = [row_of(number, latency) for number, latency in enumerate(latencies, start=1)]
    assert _best_line(contenders(rows)).startswith(line)


@pytest.mark.gpu
def test_latency_and_classify_run_on_a_gpu(photos: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    code, out, err = run(
        "latency", "fbnetv3_nano.cifar10", "--images", photos, "--device", "cuda", "--seconds", 1,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)
    assert {row["device"] for row in rows} == {"cuda"}
    assert {"torch", "torch-fp16", "torch-cuda-graph-bf16"} <= {row["backend"] for row in rows}
    answers = []
    for device in ("cpu", "cuda"):
        code, out, err = run("classify", photos, "--embedded", "--device", device, "--json")
        assert code == 0, err
        answers.append([found["labels"][0] for found in json.loads(out)["predictions"]])
    assert answers[0] == answers[1]


def test_files_are_not_measured_on_a_gpu(
    small_export: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    code, _, err = run("latency", small_export.path, "--device", "cuda")
    assert code == 2
    assert err == f"error: {small_export.path} is a file; --device cuda needs a model's name\n"


def test_damaged_photos_are_named_and_the_others_go_on(
    small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "thing 0" / "broken.png").write_bytes(b"no image")
    (folder / "thing 1" / "x.heic").touch()
    code, out, err = run(
        "quantize", small_export.path, "--calib", folder, "--evaluate", folder, "-o",
        tmp_path / "x.onnx", "--method", "minmax", "--no-sensitivity", "--no-latency", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)["quantized"]
    assert (found["num_evaluation"], found["num_unreadable"]) == (12, 1)
    assert f"{folder / 'thing 0' / 'broken.png'}: not an image" in found["unreadable"][0]
    assert err.count(".heic 1") == 1
    code, out, err = run(
        "latency", small_export.path, "--images", folder, "--threads", 1, "--seconds", 0.5, "--json"
    )
    assert code == 0, err
    assert {row["num_images"] for row in json.loads(out)} == {12}
    assert f"note: left out: cannot read image {folder / 'thing 0' / 'broken.png'}: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "fbnetv3_h", "-o", "x.onnx"), "unknown model 'fbnetv3_h'"),
        (("export", "fbnetv3_a", "-o", "x.caffemodel"), "expected a name that ends in .onnx, .xml"),
        (
            ("export", "fbnetv3_nano", "--no-pretrained", "-o", "no/x.onnx"),
            "cannot write no/x.onnx: No such file",
        ),
        (
            ("export", "fbnetv3_nano", "--no-pretrained", "-o", "x.onnx", "--opset", "11"),
            "opset is 11; torch's exporter writes 18 and later",
        ),
        (
            ("export", "fbnetv3_nano", "--triton", "models", "--name", "a b"),
            "name is 'a b'; expected letters, digits",
        ),
        (
            ("export", "x.onnx", "-o", "x.pte"),
            "x.onnx is exported already; an .onnx file can be converted to .xml or added with",
        ),
        (("export", "x.onnx", "-o", "y.onnx"), "x.onnx is exported already; an .onnx file can"),
        (("export", "x.pte", "--triton", "models"), "x.pte is exported already; an .onnx file can"),
        (("export", "x.onnx", "--triton", "models"), "no file x.onnx"),
        (
            ("export", "x.onnx", "--triton", "models", "--image-size", "32", "--name", "x"),
            "--image-size, --name: not for x.onnx, which is exported already",
        ),
        (
            ("export", "timm:resnet18", "-o", "x.onnx"),
            "unknown model 'timm:resnet18': it is not of this package; `fbnetv3 train` and `eval`",
        ),
        (("latency", "missing.onnx"), "no file missing.onnx"),
        (("quantize", "missing.onnx", "--calib", ".", "-o", "x.onnx"), "no file missing.onnx"),
        (
            ("quantize", "x.onnx", "--calib", ".", "-o", "y.pte"),
            "output is y.pte; expected a name that ends in .onnx, .xml or .tflite",
        ),
        (
            (
                "export",
                "fbnetv3_nano",
                "--no-pretrained",
                "-o",
                "x.onnx",
                "--license",
                "commercial",
            ),
            "license is 'commercial', a policy on weights to load; expected an SPDX name",
        ),
        (
            ("quantize", "x.onnx", "--calib", ".", "-o", "y.onnx", "--epochs", "3", "--lr", "1"),
            "--epochs, --lr: only for quantization-aware training; add --qat",
        ),
        (
            ("quantize", "x.onnx", "--calib", ".", "-o", "y.xml", "--qat"),
            "--qat trains for onnxruntime, and the output is for openvino; give an output that "
            "ends in .onnx",
        ),
        (
            ("quantize", "x.onnx", "--calib", ".", "-o", "y.onnx", "--qat", "--method", "mse"),
            "--method mse and --qat, which trains the ranges; give one of them",
        ),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code in (1, 2)
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not list(tmp_path.iterdir())


def test_an_int8_file_is_trained_beside_its_checkpoints(
    small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    code, out, err = run(
        *("quantize", small_export.path, "--calib", photos, "-o", path, "--qat", "--epochs", "1"),
        *("--no-latency", "--no-sensitivity"),
    )
    assert code == 0, err
    assert "9 images to train on, 3 to evaluate on" in err
    assert "1 epoch of 4 steps, batch 2" in err
    assert re.search(r"epoch 1: loss \d.*, same answers as fp32 on \d+\.\d\d %", err)
    assert "images, then trained" in out
    assert read_artefact(path).quantization["trained"] is True
    assert (tmp_path / "x.qat" / "log.json").is_file()


def test_images_are_read_as_for_training(small_export: Exported, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "x_train": np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8),
        "y_train": np.array([f"thing {n % 4}" for n in range(12)]),
    }
    data = tmp_path / "things.npz"
    np.savez(data, **arrays, x_test=arrays["x_train"][:6], y_test=arrays["y_train"][:6])
    words = ("quantize", small_export.path, "--calib", data, "-o", tmp_path / "x.onnx")
    code, out, err = run(
        *words,
        "--evaluate",
        data,
        "--method",
        "minmax",
        "--no-sensitivity",
        "--no-latency",
        "--json",
    )
    assert code == 0, err
    found = json.loads(out)["quantized"]
    assert (found["num_evaluation"], found["num_calibration"]) == (6, 12)
    assert found["top1_pct"] is not None
    code, _, err = run(*words, "--qat")
    assert code == 2
    assert f"--calib is {data}; --qat expects a folder or a list of image files" in err


def test_a_folder_without_images_is_refused(small_export: Exported, tmp_path: Path) -> None:
    code, _, err = run(
        "quantize", small_export.path, "--calib", tmp_path, "-o", tmp_path / "x.onnx"
    )
    assert code == 2
    assert f"no images in {tmp_path}" in err


def test_folders_called_after_classes_give_labels(photos: Path, tmp_path: Path) -> None:
    names = tuple(f"thing {n}" for n in range(10))
    found = labelled_images(photos, names)
    assert found.labels == [int(path.parent.name.split()[-1]) for path in found.paths]
    assert labelled_images(photos, ("cat", "dog")).labels is None
    with pytest.raises(ValueError, match=r"2 of the 3 class folders are named .* but not thing 2;"):
        labelled_images(photos, names[:2])


def test_answers_for_a_folder_go_to_a_file_that_a_stopped_run_goes_on_with(
    small_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(folder / "deep" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no photo")
    line = ["classify", folder, "--model", small_export.path, "--batch-size", "2", "-o"]

    class Stopping(AnswerFile):
        def add(self, prediction: Prediction) -> None:
            if len(self.done) == 4:
                raise KeyboardInterrupt
            super().add(prediction)

    monkeypatch.setattr("fbnetv3.deploy.answer_file.AnswerFile", Stopping)
    path = tmp_path / "answers.jsonl"
    assert run(*line, path)[0] == 130
    assert not path.exists()
    monkeypatch.undo()
    code, _, err = run(*line, path)
    assert code == 1, err
    assert "4 photos were classified by an earlier run" in err
    records = [json.loads(text) for text in path.open()]
    expected = Classifier(small_export.path)(folder)
    assert [record["source"] for record in records] == [one.source for one in expected]
    assert [record["labels"] for record in records] == [list(one.labels) for one in expected]
    assert [bool(record["error"]) for record in records] == [True, *[False] * 6]
    code, _, err = run(*line, path, "--json")
    assert code == 2
    assert "--output and --json exclude each other" in err


def test_an_export_for_huge_images_says_what_it_takes_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("stopped before the work")

    monkeypatch.setattr("fbnetv3.deploy.export.to_onnx", refuse)
    line = ("export", "fbnetv3_nano.cifar10", "-o", tmp_path / "x.onnx", "--image-size")
    _, _, err = run(*line, 5000)
    assert "images of 5000 x 5000 pixels is checked with such images, which takes gigabytes" in err
    assert "--dynamic batch+size" in err
    _, _, err = run(*line, 512)
    assert "gigabytes" not in err
