"""LiteRT files: read and quantized beside any torch, written beside an older one only."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fbnetv3
from fbnetv3._internal.errors import OverBudget
from fbnetv3.deploy import elsewhere
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import RUNTIMES, load, read_artefact
from fbnetv3.images.labels import example_photos
from fbnetv3.models.model import FBNetV3
from tests.deploy.tiny_litert import ARCH, NAMES, PREPROCESS, TINY

LITERT = RUNTIMES["litert"]


def images(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (number, 4, 4, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(image).resize((36, 36))) for image in small]


def test_a_file_has_its_metadata_and_labels_in_an_archive_that_ends_it() -> None:
    with zipfile.ZipFile(TINY) as archive:
        card = json.loads(archive.read("fbnetv3.json"))
        assert archive.read("labels.txt").decode().split("\n") == [*NAMES, ""]
    found = Artefact.from_metadata(card["metadata"], source="card")
    assert (found.arch, found.preprocess, found.batch_size) == (ARCH, PREPROCESS, 1)
    assert found.class_names == tuple(NAMES)
    assert found.parity["evidence"] == "weights"
    assert TINY.read_bytes()[4:8] == b"TFL3"  # what other runtimes read first


@pytest.mark.needs("ai_edge_litert")
def test_a_damaged_file_is_told_from_one_of_another_tool(tmp_path: Path) -> None:
    content = TINY.read_bytes()
    with zipfile.ZipFile(TINY) as archive:
        length = json.loads(archive.read("fbnetv3.json"))["num_bytes"]
    model = content[:length]
    damaged = bytearray(content)
    damaged[length // 2] ^= 1
    for number, (given, message) in enumerate(
        (
            (b"", r"x0\.tflite is empty"),
            (model, r"was not exported by this version of fbnetv3 \(no fbnetv3 metadata"),
            (content[: len(content) // 2], r"is not a LiteRT file that can be run"),
            (content[:-10], r"no fbnetv3 metadata"),
            (bytes(damaged), r"is damaged: its model is not what was exported"),
            (content.replace(b'"sha256"', b'"sha-256"'), r"damaged"),
        )
    ):
        path = tmp_path / f"x{number}.tflite"
        path.write_bytes(given)
        with pytest.raises(ValueError, match=message) as caught:
            fbnetv3.load(path)
        assert str(caught.value).isprintable()
    # What another tool wrote still runs without this package's metadata.
    assert LITERT.open(tmp_path / "x1.tflite").metadata == {}


@pytest.mark.needs("ai_edge_litert")
def test_opening_a_file_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load(TINY, threads=1).run_batch(np.zeros((2, 3, 32, 32), np.float32))
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


@pytest.mark.needs("ai_edge_quantizer")
def test_int8_answers_like_float_and_stays_in_one_piece(tmp_path: Path) -> None:
    path, again = tmp_path / "int8.tflite", tmp_path / "again.tflite"
    found = quantize(TINY, path, images(16), evaluation=images(40), runtime="litert")
    assert found.agreement_pct >= 90
    artefact = read_artefact(path)
    assert (artefact.precision, artefact.class_names) == ("int8", tuple(NAMES))
    assert artefact.quantization["format"].endswith("activations int8")
    quantize(TINY, again, images(16), evaluation=images(40), runtime="litert")
    assert again.read_bytes() == path.read_bytes()

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=path.read_bytes())
    interpreter.allocate_tensors()
    # Of an operator that XNNPACK lacks in int8, as hard-swish, each would split the graph.
    names = [step["op_name"] for step in interpreter._get_ops_details()]
    assert names.count("DELEGATE") == 1
    with pytest.raises(ValueError, match=r"is already int8"):
        quantize(path, tmp_path / "x.tflite", images(9), runtime="litert")


@pytest.mark.needs("ai_edge_quantizer")
def test_a_budget_keeps_activations_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drops = iter((3.0, 0.5, 3.0, 2.0, 2.0))
    monkeypatch.setattr(
        "fbnetv3.deploy.quantize_score.Score.drop_pct", property(lambda score: next(drops))
    )
    path = tmp_path / "x.tflite"
    found = quantize(TINY, path, images(9), runtime="litert", max_drop_pct=1.0)
    assert found.method.endswith("computed in float")
    assert found.agreement_pct == 100
    path.unlink()
    with pytest.raises(OverBudget, match=r"loses 2\.00 points .* also with activations in float"):
        quantize(TINY, path, images(9), runtime="litert", max_drop_pct=1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("ai_edge_quantizer")
def test_each_runtime_quantizes_files_of_its_source_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"for litert give a \.tflite file"):
        quantize("x.onnx", tmp_path / "x.tflite", images(2), runtime="litert")
    with pytest.raises(ValueError, match=r"for onnxruntime give a \.onnx file"):
        quantize(TINY, tmp_path / "x.onnx", images(2))
    with pytest.raises(ValueError, match=r"'minmax'; it is for onnxruntime"):
        quantize(TINY, tmp_path / "x.tflite", images(2), runtime="litert", method="minmax")


def test_without_the_converter_one_line_makes_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("litert_torch") is not None:
        monkeypatch.setitem(sys.modules, "litert_torch", None)
    options = "--image-size 64 --batch-size 4 --num-classes 7"
    words = ["export", "a b", "-o", "x.tflite", *options.split()]
    monkeypatch.setattr(sys, "argv", ["/bin/fbnetv3", *words])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="in an environment of its own: ") as caught:
        LITERT.need_writer()
    line = str(caught.value).partition("of its own: ")[2]
    make, install, run = line.split(" && ")
    assert make.endswith(" -m venv fbnetv3-env")
    assert install.startswith("fbnetv3-env/bin/pip install ")
    assert install.endswith(" 'litert-torch>=0.10'")
    assert run == f"fbnetv3-env/bin/fbnetv3 export 'a b' -o x.tflite {options}"
    uv = tmp_path / "uv"
    uv.touch()
    uv.chmod(0o755)
    line = elsewhere.command_elsewhere("litert-torch")
    assert line.startswith("uv tool run --from ")
    assert line.endswith(f" --with litert-torch fbnetv3 export 'a b' -o x.tflite {options}")
    monkeypatch.setattr(sys, "argv", ["notebook.py", "secret"])
    assert elsewhere.command_elsewhere("x").endswith(" fbnetv3 export NAME -o FILE")


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, "fbnetv3-zoo==1.2"),
        ('{"url": "file:///some/where", "dir_info": {}}', "/some/where"),
        (
            '{"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "git+https://x/y@abc",
        ),
    ],
)
def test_the_environment_gets_this_package_from_where_it_came(
    origin: str | None, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fbnetv3_zoo-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fbnetv3-zoo\nVersion: 1.2\n")
    if origin is not None:
        (folder / "direct_url.json").write_text(origin)
    monkeypatch.syspath_prepend(tmp_path)
    assert f" {source} " in elsewhere.command_elsewhere("x")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.needs("litert_torch")
def test_a_file_is_written_as_the_committed_one(
    golden_network: Callable[..., FBNetV3], tmp_path: Path
) -> None:
    model = golden_network(ARCH, num_classes=10)
    for name, batch_size in (("one", None), ("again", None), ("two", 2)):
        found = LITERT.file.export(
            model,
            tmp_path / f"{name}.tflite",
            preprocess=PREPROCESS,
            class_names=NAMES,
            batch_size=batch_size,
        )
        assert found.max_error_of_std < 1e-4
    assert (tmp_path / "one.tflite").read_bytes() == (tmp_path / "again.tflite").read_bytes()
    photos = example_photos()
    expected = fbnetv3.load(TINY)(photos)
    for name in ("one", "two"):
        answers = fbnetv3.load(tmp_path / f"{name}.tflite")(photos)
        assert [answer.labels for answer in answers] == [answer.labels for answer in expected]
