"""Exported files run without torch: same answers, many threads, clear refusals."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from fbnetv3._internal.processors import available_cpus
from fbnetv3.deploy.artefact import Artefact
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.onnx_model import OnnxClassifier
from fbnetv3.deploy.runtimes import ONNX, read_artefact
from fbnetv3.deploy.runtimes.onnxruntime import open_session
from fbnetv3.deploy.runtimes.session import check_threads
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3

NAMES = tuple(f"thing {n}" for n in range(10))


@pytest.fixture
def model(small_model: FBNetV3) -> FBNetV3:
    return small_model


@pytest.fixture
def path(small_export: Exported) -> Path:
    return small_export.path


def test_a_batch_that_is_no_preprocessed_images_is_named(path: Path) -> None:
    backend = ONNX.load(path, threads=1)
    assert backend.run_batch(np.zeros((0, 3, 32, 32), np.float32)).shape == (0, 10)
    zeros = np.zeros((1, 3, 32, 32))
    assert np.array_equal(backend.run_batch(zeros), backend.run_batch(zeros.astype(np.float32)))
    with pytest.raises(ValueError, match=r"input is uint8; expected a NumPy array .* of float32"):
        backend.run_batch(zeros.astype(np.uint8))
    with pytest.raises(ValueError, match="input is list; expected a NumPy array"):
        backend.run_batch([1, 2])  # type: ignore[arg-type]  # a mistake
    with pytest.raises(ValueError, match=r"takes \('batch', 3, 32, 32\); give RGB images"):
        backend.run_batch(np.zeros((1, 1, 32, 32), np.float32))


def test_answers_are_those_of_torch(
    model: FBNetV3, path: Path, small_preprocess: Preprocess
) -> None:
    photos = example_photos()
    expected = Classifier(model, preprocess=small_preprocess, class_names=NAMES)(photos)
    answers = OnnxClassifier(path)(photos)
    assert [a.labels for a in answers] == [e.labels for e in expected]
    assert [a.source for a in answers] == [str(photo) for photo in photos]
    for answer, other in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-5)


def test_a_graph_that_normalises_gives_the_same_answers(
    model: FBNetV3,
    path: Path,
    tmp_path: Path,
    small_preprocess: Preprocess,
) -> None:
    inside = tmp_path / "inside.onnx"
    to_onnx(
        model,
        inside,
        include_preprocess=True,
        dynamic=None,
        preprocess=small_preprocess,
        class_names=NAMES,
    )
    photos = example_photos()
    one, other = OnnxClassifier(path)(photos), OnnxClassifier(inside)(photos)
    assert [a.labels for a in one] == [a.labels for a in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a.probabilities, b.probabilities, atol=1e-4)


def test_torch_is_never_imported(path: Path) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('torch', 'timm', 'onnx', 'safetensors'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from fbnetv3.deploy.onnx_model import OnnxClassifier\n"
        f"print(OnnxClassifier({str(path)!r})({str(example_photos()[0])!r}).label)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == OnnxClassifier(path)(example_photos()[0]).label


def test_many_threads_at_once_get_their_own_answers_and_broken_images_are_reported(
    path: Path,
) -> None:
    classifier = OnnxClassifier(path, num_threads=1)
    rng = np.random.default_rng(0)
    images: list[bytes] = []
    for _ in range(24):
        buffer = BytesIO()
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    broken = images[0][:200]
    expected = [classifier(image) for image in images]
    assert len({e.probabilities for e in expected}) == len(images)
    wrong: list[str] = []

    def work(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(40):
            number = int(draw.integers(len(images) + 1))
            answer = classifier(broken if number == len(images) else images[number])
            if number == len(images):
                ok = answer.error is not None
            else:
                ok = answer.labels == expected[number].labels and np.allclose(
                    answer.probabilities, expected[number].probabilities, atol=1e-6
                )
            if not ok:
                wrong.append(f"image {number}: {answer}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_folder_is_classified_and_the_file_names_its_parts(
    path: Path, tmp_path: Path, small_preprocess: Preprocess
) -> None:
    for number in range(3):
        Image.new("RGB", (50, 40), (80 * number, 10, 200)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    answers = OnnxClassifier(path, batch_size=2, top_k=3)(tmp_path)
    assert [Path(a.source).name for a in answers] == ["0.png", "1.png", "2.png", "3.png"]
    assert [len(a.labels) for a in answers] == [3, 3, 3, 0]
    assert "not an image" in str(answers[3].error)
    artefact: Artefact = OnnxClassifier(path).artefact
    assert artefact.preprocess == small_preprocess


def test_a_file_that_is_not_onnx_or_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make one with `fbnetv3 export`"):
        ONNX.load(tmp_path / "missing.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(ValueError, match=r"text\.onnx is not an ONNX file"):
        ONNX.load(text)
    foreign = tmp_path / "foreign.onnx"
    value = onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "foreign",
        [value("x", kind, [1, 2])],
        [value("y", kind, [1, 2])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), foreign)
    with pytest.raises(
        ValueError, match=r"not exported by this version.*fbnetv3\.Classifier its prep"
    ):
        read_artefact(foreign)


def test_another_input_size_is_refused(path: Path) -> None:
    backend = ONNX.load(path, threads=1)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 40, 40\).*takes.*32.*--image-size"):
        backend.run_batch(np.zeros((1, 3, 40, 40), np.float32))
    with pytest.raises(ValueError, match=r"shape \(3, 32, 32\); expected \(N, 3, H, W\)"):
        backend.run_batch(np.zeros((3, 32, 32), np.float32))


def test_a_missing_provider_is_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="'FastestExecutionProvider' is not in this onnxruntime"):
        OnnxClassifier(path, providers=["FastestExecutionProvider", "CPUExecutionProvider"])
    assert OnnxClassifier(path, providers="CPUExecutionProvider").class_names
    with pytest.warns(UserWarning, match=r"999 threads on \d+ processors? are slower than fewer"):
        check_threads(999)
    with pytest.raises(ValueError, match="threads is 0; expected a whole number from 1"):
        OnnxClassifier(path, num_threads=0)
    with pytest.raises(ValueError, match=r"x\.pte is for executorch; expected an \.onnx file"):
        OnnxClassifier("x.pte")


def test_threads_are_those_that_may_be_used(path: Path) -> None:
    assert available_cpus() >= 1
    options = open_session(path, threads=1).session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert open_session(path).session.get_session_options().intra_op_num_threads == available_cpus()


Change = Callable[[Any], object]


def _metadata(key: str, value: str | None) -> Change:
    def change(model: Any) -> None:
        kept = [(p.key, p.value) for p in model.metadata_props if p.key != f"fbnetv3.{key}"]
        del model.metadata_props[:]
        for name, text in [*kept, *([] if value is None else [(f"fbnetv3.{key}", value)])]:
            model.metadata_props.add(key=name, value=text)

    return change


def _taller_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 48


def _rename_input(model: Any) -> None:
    model.graph.input[0].name = "photo"
    for node in model.graph.node:
        node.input[:] = ["photo" if name == "input" else name for name in node.input]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_metadata("name", None), "damaged metadata .'name' is missing.; export it again"),
        (_metadata("labels", '["cat"'), "damaged metadata .*not valid JSON"),
        (_metadata("labels", "[1,2,3,4,5,6,7,8,9,10]"), "labels has 1; expected text"),
        (_metadata("labels", '{"a":1}'), "labels is {'a': 1}; expected a list"),
        (_metadata("labels", '["cat"]'), "has 1 class names for 10 logits, expected one each"),
        (_metadata("in_graph", "1"), "in_graph is 1; expected true or false"),
        (_metadata("in_graph", "true"), "is not an image classifier as in its metadata"),
        (_metadata("parity", "3"), "parity is 3; expected a JSON object"),
        (_metadata("quantization", "[" * 5000 + "]" * 5000), "quantization is not valid JSON"),
        (_metadata("params", "1_000"), "params is '1_000'; expected a whole number"),
        (_metadata("macs_paper", "9" * 5000), "macs_paper is .*; expected a whole number"),
        (_metadata("preprocess", "[]"), r"preprocess is \[\]; expected a JSON object"),
        (_metadata("schema", "\x1b[2J" + "x" * 9000), "was not exported by this version"),
        (_rename_input, r"it has inputs \[\('photo', .*export it again"),
        (_taller_input, r"takes images of \[48, 32\] pixels, but its metadata say 32"),
    ],
)
def test_a_file_that_its_metadata_do_not_describe_is_refused(
    path: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Change,
    message: str,
) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ValueError, match=message) as caught:
        OnnxClassifier(tmp_path / "changed.onnx")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1200
    assert capfd.readouterr() == ("", ""), "onnxruntime adds words of its own"


def test_metadata_that_are_no_text_are_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"image-classification") == 1
    (tmp_path / "m.onnx").write_bytes(content.replace(b"image-classification", b"\xff" * 20))
    with pytest.raises(ValueError, match=r"m\.onnx (has damaged metadata|is not an ONNX file)"):
        ONNX.load(tmp_path / "m.onnx")


def test_a_graph_that_fails_while_it_runs_is_refused_in_one_line(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(path)
    # A sum over rows that are not there: nothing that shows before an image comes.
    weight = next(t for t in model.graph.initializer if t.name == "classifier.bias")
    weight.dims[:] = [2, 5]
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"cannot be run on an input|not an ONNX file") as caught:
        OnnxClassifier(tmp_path / "m.onnx")(Image.new("RGB", (40, 40)))
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")
