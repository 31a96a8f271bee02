"""Every runtime runs what was exported for it, through one protocol; a new one is one file."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from numpy.typing import NDArray
from typer.testing import CliRunner

import fbnetv3
from fbnetv3._internal.optional import need
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.parity import TOLERANCE, error_of_std
from fbnetv3.deploy.runtimes import (
    ONNX,
    RUNTIMES,
    Runtime,
    is_exported,
    load,
    quantizing,
    read_artefact,
    runtime_of,
    suffixes,
)
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.measure.bench import entries, sweep
from fbnetv3.models.model import FBNetV3
from tests.deploy import tiny_litert
from tests.shell import APPS

CARD = "fbnetv3/extra/fbnetv3.json"
NAMES = [f"thing {n}" for n in range(10)]
REFERENCE = Runtime(
    "reference", (".onnx",), "onnx", "onnx", module="tests.deploy.reference_runtime"
)
NEEDED = {
    "openvino": "openvino",
    "litert": "ai_edge_litert",
    "executorch": "executorch",
    "aotinductor": "g++",
}
# Written in another environment, so that a file is committed, of a smaller network.
COMMITTED = {"litert": tiny_litert.TINY}


def parameter(runtime: Runtime) -> ParameterSet:
    marks = [pytest.mark.needs(NEEDED[runtime.name])] if runtime.name in NEEDED else []
    # These exporters take ten seconds or more.
    if runtime.written_from == "model" and runtime.name not in COMMITTED:
        marks += [pytest.mark.slow, pytest.mark.timeout(900)]
    return pytest.param(runtime, id=runtime.name, marks=marks)


# What runs on one system only has its own tests.
HERE = [runtime for runtime in RUNTIMES.values() if runtime.only_on in ("", sys.platform)]
TABLE = [parameter(runtime) for runtime in HERE]


def noise(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal((number, 3, 32, 32), np.float32)


@pytest.fixture(scope="session")
def written(
    small_model: FBNetV3,
    small_preprocess: Preprocess,
    small_export: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Runtime], Path]:
    """Returns a function: `small_model` as a file of a runtime's own format."""
    made: dict[str, Path] = {ONNX.suffix: small_export.path}
    made |= {RUNTIMES[name].suffix: path for name, path in COMMITTED.items()}

    def write(runtime: Runtime) -> Path:
        if runtime.suffix not in made:
            path = tmp_path_factory.mktemp(runtime.name) / f"small{runtime.suffix}"
            if runtime.written_from == "onnx":
                found = runtime.file.convert(small_export.path, path)
            else:
                found = runtime.file.export(
                    small_model, path, preprocess=small_preprocess, class_names=NAMES
                )
            assert found.max_error_of_std < 1e-4
            if runtime.written_from == "onnx":
                assert found.to_dict() == runtime.load(path).artefact.parity
            assert sorted(path.parent.iterdir()) == sorted(runtime.parts(path))
            made[runtime.suffix] = path
        return made[runtime.suffix]

    return write


@pytest.fixture(params=[*TABLE, parameter(REFERENCE)])
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Each runtime of the table, and one that only this test adds to it."""
    chosen: Runtime = request.param
    monkeypatch.setitem(RUNTIMES, chosen.name, chosen)
    return chosen


@pytest.fixture
def model(
    runtime: Runtime, small_model: FBNetV3, golden_network: Callable[..., FBNetV3]
) -> FBNetV3:
    """The network of a runtime's file."""
    if runtime.name in COMMITTED:
        return golden_network(tiny_litert.ARCH, num_classes=10)
    return small_model


@pytest.fixture
def exported(
    runtime: Runtime,
    model: FBNetV3,
    small_export: Exported,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    """The network of a runtime's file as ONNX."""
    if runtime.name not in COMMITTED:
        return small_export
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    return to_onnx(model, path, preprocess=tiny_litert.PREPROCESS, class_names=tiny_litert.NAMES)


@pytest.fixture
def path(runtime: Runtime, written: Callable[[Runtime], Path]) -> Path:
    return written(runtime)


def test_a_file_gives_the_logits_of_its_model(runtime: Runtime, path: Path, model: FBNetV3) -> None:
    backend = runtime.load(path, threads=1)
    for number in (1, 3):
        with torch.inference_mode():
            expected = model(torch.from_numpy(noise(number))).numpy()
        got = backend.run_batch(noise(number))
        assert got.dtype == np.float32
        assert error_of_std(got, expected).max() < 1e-4
    with pytest.raises(ValueError, match=r"shape \(1, 3, 40, 40\)"):
        backend.run_batch(np.zeros((1, 3, 40, 40), np.float32))


def test_a_file_says_what_is_needed_to_classify_with_it(
    runtime: Runtime, path: Path, exported: Exported
) -> None:
    backend = runtime.load(path)
    found, expected = backend.artefact, exported.artefact
    size = backend.input_shape[0]
    assert found.batch_size == (size if isinstance(size, int) else None)
    differing: dict[str, object] = {"parity": {}, "exported_with": {}, "batch_size": None}
    assert {**vars(found), **differing} == {**vars(expected), **differing}
    photos = example_photos()
    answers = Classifier(runtime.load(path, threads=1), top_k=10)(photos)
    assert answers == fbnetv3.load(path, num_threads=1, top_k=10)(photos) or runtime is REFERENCE
    for answer, other in zip(
        answers, Classifier(load(exported.path), top_k=10)(photos), strict=True
    ):
        assert answer.labels == other.labels
        np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=1e-5)


def test_a_file_is_timed_in_the_precisions_of_the_machine(runtime: Runtime, path: Path) -> None:
    tried = [entry for entry in entries([path], threads=[1]) if entry.runtime is runtime]
    assert tried[0].backend == runtime.name
    assert [entry.precision for entry in tried] == list(runtime.precisions())
    rows = sweep(tried, read_artefact(path), images=noise(5), min_runs=2, max_seconds=0.1)
    assert all(row.latency.median_ms > 0 for row in rows)
    assert rows[0].num_bytes == sum(part.stat().st_size for part in runtime.parts(path))
    assert rows[0].agreement_pct == 100


def test_many_threads_at_once_get_their_own_answers(runtime: Runtime, path: Path) -> None:
    backend = runtime.load(path, threads=1)
    batches = [noise(1) + n for n in range(4)]
    expected = [backend.run_batch(batch) for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if error_of_std(backend.run_batch(batches[number]), expected[number]).max() > 1e-5:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("runtime", TABLE, indirect=True)
def test_numbers_of_threads_do_not_disturb_each_other(runtime: Runtime, path: Path) -> None:
    one, two = runtime.load(path, threads=1), runtime.load(path, threads=2)
    expected = one.run_batch(noise(1))
    for backend in (two, one, two, one):
        assert error_of_std(backend.run_batch(noise(1)), expected).max() < 1e-5


def test_what_cannot_be_honoured_is_refused(runtime: Runtime, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision"):
        runtime.open(path, precision="fp8")
    with pytest.raises(ValueError, match="threads is 0"):
        runtime.open(path, threads=0)
    with pytest.raises(FileNotFoundError, match="make one with `fbnetv3 export`"):
        runtime.open(tmp_path / f"missing{runtime.suffix}")


@pytest.mark.parametrize("runtime", TABLE)
def test_a_file_of_another_kind_is_refused(runtime: Runtime, tmp_path: Path) -> None:
    for name, content in (("text", b"no model"), ("empty", b"")):
        other = tmp_path / f"{name}{runtime.suffix}"
        other.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(other.name)) as caught:
            load(other)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("runtime", TABLE, indirect=True)
def test_a_file_that_was_cut_short_is_refused(runtime: Runtime, path: Path, tmp_path: Path) -> None:
    for share in (0.01, 0.5, 0.99):
        for part in runtime.parts(path):
            shutil.copy(part, tmp_path)
        cut = tmp_path / runtime.parts(path)[-1].name  # weights, if they are apart
        os.truncate(cut, int(share * cut.stat().st_size))
        with pytest.raises(ValueError, match=re.escape(path.stem)) as caught:
            load(tmp_path / path.name)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda runtime: runtime.name)
def test_the_table_says_what_the_file_can(runtime: Runtime) -> None:
    file = runtime.file
    assert (runtime.quantizer is not None) == hasattr(file, "quantize")
    assert (runtime.written_from == "model") == hasattr(file, "export")
    assert (runtime.written_from == "onnx" and runtime is not ONNX) == hasattr(file, "convert")
    assert runtime_of(f"x{runtime.suffix}") is runtime


def test_the_name_of_a_model_is_told_from_a_file() -> None:
    with pytest.raises(ValueError, match=r"for a model's name use fbnetv3\.Classifier"):
        fbnetv3.load("fbnetv3_nano.cifar10")


def test_the_table_is_asked_by_name_and_by_ending() -> None:
    assert suffixes() == tuple(runtime.suffix for runtime in RUNTIMES.values())
    assert is_exported("a/b.onnx")
    assert not is_exported("fbnetv3_b.ra2_in1k")
    with pytest.raises(ValueError, match=r"x\.engine; expected a name that ends in \.onnx, \.xml"):
        runtime_of("x.engine")
    with pytest.raises(
        ValueError, match="'tensorrt'; expected one of onnxruntime, openvino, litert"
    ):
        quantizing("tensorrt")


def test_a_library_that_is_missing_is_named_with_its_cure(
    small_export: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Runtime("absent", (".onnx",), "no_such_library", "onnx")
    monkeypatch.setitem(RUNTIMES, absent.name, absent)
    assert not absent.available()
    assert all(entry.backend != "absent" for entry in entries([small_export.path], threads=[1]))
    with pytest.raises(ImportError, match="pip install no_such_library"):
        absent.load(small_export.path)
    with pytest.raises(ImportError, match="pip install no_such_library"):
        need("no_such_library")


@pytest.mark.parametrize("runtime", TABLE, indirect=True)
def test_a_photo_is_classified_with_each_exported_file(runtime: Runtime, path: Path) -> None:
    words = ["classify", str(example_photos()[0]), "--model", str(path), "--top-k", "1"]
    done = CliRunner().invoke(APPS["fbnetv3"], words)
    assert done.exit_code == 0, done.output
    assert f"model: {path}" in done.stdout
    assert ": thing " in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.needs("g++")
def test_a_compiled_package_is_checked_before_its_code_runs(
    written: Callable[[Runtime], Path],
    small_model: FBNetV3,
    small_preprocess: Preprocess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = RUNTIMES["aotinductor"]
    path = written(runtime)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name in contents if name.endswith(".cpp")]
    assert runtime.load(path).artefact.parity["evidence"] == "weights"
    (library,) = (name for name in contents if name.endswith(".so"))
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: pytest.fail("it ran"))
    for name, content, message in (
        (library, b"other code", r"damaged: its code is not what was exported"),
        (CARD, b"{}", r"`fbnetv3 export` wrote \('shape' is missing\)"),
        (CARD, contents[CARD].replace(b'"AVX', b'"AVY'), "compiled for a CPU with AVY"),
    ):
        other = tmp_path / "other.pt2"
        with zipfile.ZipFile(other, "w") as archive:
            for key, value in contents.items():
                archive.writestr(key, content if key == name else value)
        if content != contents[name]:  # a CPU without vectors has no name to change
            with pytest.raises(ValueError, match=message):
                fbnetv3.load(other)
    monkeypatch.undo()
    again = tmp_path / "again.pt2"
    runtime.file.export(small_model, again, preprocess=small_preprocess, class_names=NAMES)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("other.txt", b"", "it has no fbnetv3/extra/fbnetv3.json"),
        (CARD, b"\xff", "invalid start byte"),
        (CARD, b"[1", "is not valid JSON"),
        (CARD, b"[]", "not a mapping"),
        (CARD, b'{"shape": 3}', "not iterable"),
    ],
)
def test_an_archive_that_is_no_package_is_refused_before_torch_sees_it(
    name: str, content: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: pytest.fail("it ran"))
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    _refused(path, reason)
    # Entries that are encrypted, or compressed in a way that nothing reads.
    for place, byte in ((8, b"\x01"), (10, b"\x63")):
        raw = bytearray(path.read_bytes())
        directory = raw.index(b"PK\x01\x02")
        raw[directory + place : directory + place + 1] = byte
        damaged = tmp_path / "damaged.pt2"
        damaged.write_bytes(raw)
        _refused(damaged, "export")


def _refused(path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        fbnetv3.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path} is not a package that `fbnetv3 export` wrote (")
    assert text.endswith("make one with `fbnetv3 export`")
    assert text.isprintable()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.needs("executorch")
def test_a_program_names_what_is_wrong_with_it_and_what_it_takes(
    written: Callable[[Runtime], Path], tmp_path: Path
) -> None:
    runtime = RUNTIMES["executorch"]
    path = written(runtime)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 32, 32\).*it takes \(1, 3, 32, 32\)"):
        runtime.open(path).run(noise(2))
    artefact = runtime.load(path).artefact
    assert artefact.parity["evidence"] == "weights"
    assert "executorch" in artefact.exported_with
    content = path.read_bytes()
    # Of before the hash.
    former = content.replace(b"fbnetv3.file_sha256", b"fbnetv3.file_sha000")
    for source, changed, reason in (
        (former, former.index(b'{"fbnetv3.'), "damaged metadata"),
        (content, content.index(b'{"fbnetv3.'), "is damaged: it is not what was exported"),
        (content, len(content) - 200, "is damaged: it is not what was exported"),
    ):
        other = tmp_path / "other.pte"
        other.write_bytes(source[:changed] + b"\xfe" + source[changed + 1 :])
        with pytest.raises(ValueError, match=f"other.pte.*{reason}.*export it again") as caught:
            fbnetv3.load(other)
        assert str(caught.value).isprintable()


def test_a_missing_compiler_is_named(
    small_model: FBNetV3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = RUNTIMES["aotinductor"].file.export
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ImportError, match=r"no g\+\+ or clang\+\+: install g\+\+"):
        export(small_model, tmp_path / "x.pt2")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ImportError, match="there is no no-such-compiler"):
        export(small_model, tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_a_file_is_loaded_with_its_metadata_and_a_name_is_not(small_export: Exported) -> None:
    loaded = fbnetv3.load(small_export.path, num_threads=1, batch_size=2)
    assert loaded.artefact == small_export.artefact
    assert loaded.batch_size == 2
    assert loaded.class_names == tuple(NAMES)
    with pytest.raises(ValueError, match=r"file is fbnetv3_b.ra2_in1k; expected one that ends"):
        fbnetv3.load("fbnetv3_b.ra2_in1k")
    with pytest.raises(FileNotFoundError, match=r"no file away\.onnx"):
        fbnetv3.load("away.onnx")
    with pytest.raises(ValueError, match="top_k is 0"):
        fbnetv3.load(small_export.path, top_k=0)


@pytest.mark.needs("openvino")
def test_openvino_runs_a_file_for_single_images_and_one_that_normalises(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    runtime = RUNTIMES["openvino"]
    exported = to_onnx(
        small_model,
        tmp_path / "one.onnx",
        dynamic=None,
        include_preprocess=True,
        preprocess=small_preprocess,
    )
    xml = tmp_path / "one.xml"
    runtime.file.convert(exported.path, xml)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32) / 255
    mean, std = (np.array(v, np.float32) for v in (small_preprocess.mean, small_preprocess.std))
    batch = ((pixels - mean) / std).transpose(0, 3, 1, 2)
    expected = load(exported.path).run_batch(batch)
    assert error_of_std(load(xml).run_batch(batch), expected).max() < 1e-4


@pytest.mark.needs("openvino")
def test_openvinos_half_precision_is_held_to_its_own_tolerance(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    half = to_onnx(
        small_model,
        tmp_path / "half.onnx",
        precision="fp16",
        dynamic=None,
        preprocess=small_preprocess,
    )
    parity = RUNTIMES["openvino"].file.convert(half.path, tmp_path / "half.xml")
    assert parity.tolerance == TOLERANCE["fp16"] > 10 * TOLERANCE["fp32"]
    images = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = small_model(torch.from_numpy(images)).numpy()
    loaded = load(tmp_path / "half.xml")
    assert loaded.artefact.precision == "fp16"
    assert error_of_std(loaded.run_batch(images), expected).max() < TOLERANCE["fp16"]


@pytest.mark.needs("openvino")
def test_weights_of_another_network_beside_an_xml_are_refused(
    small_export: Exported, tmp_path: Path
) -> None:
    path = tmp_path / "x.xml"
    RUNTIMES["openvino"].file.convert(small_export.path, path)
    assert "openvino" in load(path).artefact.exported_with
    weights = bytearray(path.with_suffix(".bin").read_bytes())
    weights[100] ^= 1
    path.with_suffix(".bin").write_bytes(weights)
    with pytest.raises(ValueError, match=r"x\.bin is not what was exported with x\.xml"):
        load(path)


@pytest.mark.needs("openvino")
def test_openvino_refuses_what_it_cannot_write(small_export: Exported, tmp_path: Path) -> None:
    convert = RUNTIMES["openvino"].file.convert
    with pytest.raises(ValueError, match=r"name the \.xml one"):
        convert(small_export.path, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="cannot write"):
        convert(small_export.path, tmp_path / "missing" / "x.xml")
    assert not list(tmp_path.iterdir())
