"""Licences: an allow-list, one check at every door, and a licence that travels in every file."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

import fbnetv3
from fbnetv3._internal.files import sha256_of
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_metadata, stated_license, write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.cli.app import app
from fbnetv3.deploy import runtimes
from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported, to_onnx
from fbnetv3.deploy.quantize import quantize
from fbnetv3.deploy.runtimes import read_artefact
from fbnetv3.hub.create import create
from fbnetv3.hub.license_policy import (
    check_terms,
    is_commercial,
    is_non_commercial,
    own_license,
)
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.images.labels import example_photos
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.shell import APPS

ARCH = ARCHS["fbnetv3_nano"].small_image(32)
RESTRICTED = (
    "CC-BY-NC-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "CC-BY-NC-3.0",
    "fair-noncommercial-research-license",
)
UNKNOWN = ("", "other", "unknown", "openrail", "llama3", "apache", "proprietary")

pytestmark = pytest.mark.filterwarnings("ignore:.* is licensed")


@pytest.mark.parametrize("license", RESTRICTED)
def test_licences_that_forbid_commercial_use_are_recognised(license: str) -> None:
    assert is_non_commercial(license)
    assert not is_commercial(license)


@pytest.mark.parametrize("license", [*RESTRICTED, *UNKNOWN])
def test_what_is_not_known_to_allow_commercial_use_is_refused(license: str) -> None:
    with pytest.raises(ValueError, match=r"policy 'commercial' requires"):
        check_terms("mine", license, "commercial")


@pytest.mark.parametrize(
    "license", ["Apache-2.0", "apache-2.0", "MIT", "bsd-3-clause", "cc-by-4.0"]
)
def test_licences_that_allow_commercial_use_pass(license: str) -> None:
    assert not is_non_commercial(license)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_terms("mine", license, "commercial")
        check_terms("mine", license)


def test_all_records_are_known_one_way_or_the_other() -> None:
    for weights in WEIGHTS.values():
        assert weights.commercial != is_non_commercial(weights.license)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory, small_model: FBNetV3) -> Path:
    """A saved model under a non-commercial licence."""
    folder = tmp_path_factory.mktemp("nc")
    names = [f"thing {n}" for n in range(10)]
    return fbnetv3.save_pretrained(
        small_model,
        folder,
        license="CC-BY-NC-SA-4.0",
        labels=names,
        preprocess=WEIGHTS["fbnetv3_nano.cifar10"].preprocess,
    )


@pytest.fixture(name="exported", scope="module")
def _exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = create(f"local-dir:{folder}", pretrained=True)
    assert isinstance(model, FBNetV3)
    return to_onnx(model, tmp_path_factory.mktemp("nc") / "nc.onnx")


def test_the_licence_of_a_saved_folder_is_in_its_export_and_its_int8_file(
    folder: Path, exported: Exported, tmp_path: Path
) -> None:
    assert read_metadata(folder / "model.safetensors")["license"] == "cc-by-nc-sa-4.0"
    assert read_artefact(exported.path).license == "cc-by-nc-sa-4.0"
    made = quantize(
        exported.path, tmp_path / "int8.onnx", example_photos(), method="minmax", sensitivity=False
    )
    assert made.artefact.license == "cc-by-nc-sa-4.0"
    assert read_artefact(made.path).license == "cc-by-nc-sa-4.0"


def test_each_exported_file_states_its_licence_under_its_own_name(
    exported: Exported, tmp_path: Path
) -> None:
    for name in ("mine.onnx", "yours.onnx"):  # both of a network of the same name
        path = shutil.copy(exported.path, tmp_path / name)
        with pytest.warns(UserWarning, match=f"{name} is licensed cc-by-nc-sa-4.0: non-commercial"):
            runtimes.load(path)
        with pytest.raises(ValueError, match=f"{name} is licensed cc-by-nc-sa-4.0: no commercial"):
            Classifier(path, license="commercial")


def test_latency_refuses_a_saved_network_before_it_exports_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    line = ["latency", f"local-dir:{folder}", "--seconds", "0.01"]
    done = CliRunner().invoke(APPS["fbnetv3"], line)
    assert done.exit_code == 2
    assert f"local-dir:{folder} is licensed cc-by-nc-sa-4.0: no commercial" in done.output


def test_the_licence_survives_saving_again(folder: Path, tmp_path: Path) -> None:
    again = fbnetv3.save_pretrained(fbnetv3.from_pretrained(folder), tmp_path)
    with pytest.raises(ValueError, match=r"cc-by-nc-sa-4\.0: no commercial use"):
        fbnetv3.from_pretrained(again, license="commercial")


@pytest.mark.parametrize("license", ["MIT", ""])
def test_the_licence_of_others_is_not_replaced_by_another(
    license: str, folder: Path, tmp_path: Path
) -> None:
    model = fbnetv3.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"license is '{license}'"):
        fbnetv3.save_pretrained(model, tmp_path, license=license)
    with pytest.raises(ValueError, match=f"license is '{license}'"):
        to_onnx(model, tmp_path / "x.onnx", license=license)
    assert not list(tmp_path.iterdir())


def test_a_copied_file_keeps_its_licence_in_another_folder(
    folder: Path, small_model: FBNetV3, tmp_path: Path
) -> None:
    fbnetv3.save_pretrained(small_model, tmp_path, license="Apache-2.0")
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"cc-by-nc-sa-4\.0: no commercial use"):
        create(f"local-dir:{tmp_path}", pretrained=True, license="commercial")


def test_a_copy_of_a_downloaded_pickle_keeps_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "cache"))
    copy, target = tmp_path / "best.pth", tmp_path / "ours.safetensors"
    state = dict(build(ARCH, num_classes=3).state_dict())
    torch.save(from_fbnetv3(state, ARCH, "official", force=True), copy)
    (tmp_path / "arch.json").write_text(ARCH.to_json())
    convert = ["convert", str(copy), str(target), "--model", str(tmp_path / "arch.json")]
    # Of an unknown one in Meta's layout it is said that it may be theirs.
    with pytest.warns(UserWarning, match="it has Meta's layout .* CC-BY-NC-4.0: non-commercial"):
        fbnetv3.create(ARCH, checkpoint=copy)
    done = CliRunner().invoke(APPS["fbnetv3"], convert)
    assert "it has Meta's layout" in done.output
    assert stated_license(target) == ""
    # This machine has downloaded it.
    (tmp_path / "cache").mkdir()
    facts = json.dumps({"published_sha256": sha256_of(copy)})
    (tmp_path / "cache" / "fbnetv3_a.meta_in1k.json").write_text(facts)
    assert fbnetv3.create(ARCH, checkpoint=copy).pretrained_cfg["license"] == "CC-BY-NC-4.0"
    done = CliRunner().invoke(APPS["fbnetv3"], convert)
    assert done.exit_code == 0, done.output
    assert stated_license(target) == "CC-BY-NC-4.0"
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    for source in (copy, target):
        with pytest.raises(ValueError, match="no commercial use"):
            fbnetv3.create(ARCH, checkpoint=source)
        words = ["convert", str(source), str(tmp_path / "again.safetensors"), *convert[3:]]
        refused = CliRunner().invoke(APPS["fbnetv3"], words)
        assert refused.exit_code == 2
        assert "no commercial use" in refused.output


def test_own_weights_state_their_licence_on_export(small_model: FBNetV3, tmp_path: Path) -> None:
    made = to_onnx(small_model, tmp_path / "own.onnx", license="MIT", dynamic=None)
    assert read_artefact(made.path).license == "MIT"


def test_export_states_the_licence_of_own_weights_only(
    folder: Path, small_model: FBNetV3, small_preprocess: Preprocess, tmp_path: Path
) -> None:
    plain = fbnetv3.save_pretrained(
        small_model, tmp_path / "plain", license="", preprocess=small_preprocess
    )

    def exported(model: object, license: str) -> Result:
        words = ["export", str(model), "-o", str(tmp_path / "x.onnx"), "--license", license]
        return CliRunner().invoke(APPS["fbnetv3"], words)

    done = exported(f"local-dir:{plain}", "MIT")
    assert done.exit_code == 0, done.output
    assert read_artefact(tmp_path / "x.onnx").license == "MIT"
    for model, license, why in (
        (f"local-dir:{folder}", "MIT", "is licensed cc-by-nc-sa-4.0: no commercial use"),
        (f"local-dir:{plain}", "my licence!", "expected an SPDX name"),
        ("fbnetv3_nano.cifar10", "MIT", "is licensed Apache-2.0 by its authors"),
    ):
        refused = exported(model, license)
        assert refused.exit_code == 2, refused.output
        assert why in refused.output


@pytest.mark.parametrize(
    ("license", "known", "passes"),
    [
        ("MIT", "", True),
        ("MIT OR Apache-2.0", "Apache-2.0", True),
        ("CC-BY-NC-SA-4.0", "CC-BY-NC-4.0", True),
        ("Apache-2.0", "CC-BY-NC-4.0", False),
        ("Apache 2", "", False),
        ("", "", False),
    ],
)
def test_an_own_licence_allows_nothing_that_the_starting_weights_forbid(
    license: str, known: str, passes: bool
) -> None:
    if passes:
        assert own_license(license, known=known, source="x") == license
    else:
        with pytest.raises(ValueError, match="license is "):
            own_license(license, known=known, source="x")


def test_the_licence_in_a_checkpoint_is_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "nc.safetensors"
    write_tensors(path, build(ARCH, num_classes=3).state_dict(), {"license": "CC-BY-NC-4.0"})
    model = fbnetv3.create(ARCH, checkpoint=path)
    assert model.pretrained_cfg["license"] == "CC-BY-NC-4.0"
    with pytest.raises(ValueError, match="no commercial use"):
        fbnetv3.create(ARCH, checkpoint=path, license="commercial")
    torch.save(build(ARCH, num_classes=3).state_dict(), tmp_path / "unknown.pth")
    with pytest.raises(ValueError, match="states no licence"):
        fbnetv3.create(ARCH, checkpoint=tmp_path / "unknown.pth", license="commercial")


def _by_command(*words: str) -> Callable[[Path, Path], object]:
    def run(folder: Path, file: Path) -> object:
        given = [word.format(folder=folder, file=file) for word in words]
        done = CliRunner().invoke(app, given)
        if done.exit_code:
            raise ValueError(done.output)
        return done

    return run


def _torchvision(folder: Path, _: Path) -> object:
    from fbnetv3.integrations.torchvision_backbone import faster_rcnn

    return faster_rcnn(f"local-dir:{folder}", num_classes=3, pretrained=True)


def _detector_checkpoint(folder: Path, _: Path) -> object:
    from fbnetv3.integrations.trunk import load_network

    return load_network(ARCH, checkpoint=folder / "model.safetensors")


PHOTO = str(example_photos()[0])
DOORS: dict[str, Callable[[Path, Path], object]] = {
    "create": lambda folder, _: create(f"local-dir:{folder}", pretrained=True),
    "from_pretrained": lambda folder, _: fbnetv3.from_pretrained(folder),
    "Classifier of a file": lambda _, file: fbnetv3.Classifier(file),
    "Classifier of a folder": lambda folder, _: fbnetv3.Classifier(f"local-dir:{folder}"),
    "OnnxClassifier": lambda _, file: fbnetv3.OnnxClassifier(file),
    "classify --model file": _by_command("classify", PHOTO, "--model", "{file}"),
    "classify --model folder": _by_command("classify", PHOTO, "--model", "local-dir:{folder}"),
    "export": _by_command("export", "local-dir:{folder}", "-o", "{folder}/x.onnx"),
    "quantize": _by_command("quantize", "{file}", "--calib", PHOTO, "-o", "{folder}/x.onnx"),
    "demo": _by_command("demo", "--model", "{file}", "--out", "{folder}/demo", "--no-serve"),
    "latency": _by_command("latency", "{file}"),
    "load": lambda _, file: fbnetv3.load(file),
    "classify --engine ray": _by_command(
        *("classify", PHOTO, "--model", "{file}", "--engine", "ray", "-o", "{folder}/x.parquet")
    ),
    "explain": _by_command(
        "explain", PHOTO, "--model", "local-dir:{folder}", "-o", "{folder}/x.png"
    ),
    "eval of a file": _by_command("eval", "{file}", "--data", str(example_photos()[0].parent)),
    "eval of a folder": _by_command(
        "eval", "local-dir:{folder}", "--data", str(example_photos()[0].parent)
    ),
    "export to a compiled package": _by_command(
        "export", "local-dir:{folder}", "-o", "{folder}/x.pt2"
    ),
    "export to Core ML": _by_command("export", "local-dir:{folder}", "-o", "{folder}/x.mlpackage"),
    "export for Triton": _by_command("export", "local-dir:{folder}", "--triton", "{folder}/models"),
    "latency of a folder": _by_command("latency", "local-dir:{folder}"),
    "demo of a folder": _by_command(
        "demo", "--model", "local-dir:{folder}", "--out", "{folder}/demo", "--no-serve"
    ),
    "torchvision's detectors": _torchvision,
    "a detector's checkpoint": _detector_checkpoint,
}


@pytest.mark.parametrize(
    "door",
    [
        pytest.param(door, marks=pytest.mark.needs("coremltools") if "Core ML" in door else ())
        for door in DOORS
    ],
)
def test_every_door_is_closed_by_the_policy(
    door: str, folder: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fbnetv3.cli.app import add_neighbours

    if len(app.registered_commands) < 8:
        add_neighbours()
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    with pytest.raises(ValueError, match="no commercial use"):
        DOORS[door](folder, exported.path)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "model.safetensors", "README.md")
    }


def test_fresh_weights_are_measured_under_any_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    options = ("--threads", "1", "--seconds", "0.1", "--min-runs", "2")
    done = CliRunner().invoke(app, ["latency", "fbnetv3_nano", *options])
    assert done.exit_code == 0, done.output
    assert "onnxruntime" in done.output


@pytest.mark.parametrize("license", ["", "Apache-2.0", "other"])
def test_a_file_with_another_licence_is_refused_unless_it_is_known(
    license: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto: Any = onnx.load(exported.path)
    for prop in proto.metadata_props:
        if prop.key == "fbnetv3.license":
            prop.value = license
    onnx.save(proto, tmp_path / "changed.onnx")
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    if license == "Apache-2.0":
        assert fbnetv3.OnnxClassifier(tmp_path / "changed.onnx")(PHOTO).label
        return
    with pytest.raises(ValueError, match="policy 'commercial' requires"):
        fbnetv3.OnnxClassifier(tmp_path / "changed.onnx")
