"""The command line, driven as a user does: output, JSON, exit codes, one line for a mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fbnetv3 import __version__
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.checkpoints.checkpoint import read_tensors, write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.cli.group import print_table
from fbnetv3.cli.options import EMBEDDED
from fbnetv3.deploy.export import Exported
from fbnetv3.hub.pretrained import save_pretrained
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.images.folders import list_images
from fbnetv3.images.preprocess import Preprocess
from fbnetv3.models.model import FBNetV3, build
from tests.shell import APPS


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(APPS["fbnetv3"], [str(argument) for argument in arguments])
    assert not isinstance(result.exception, Exception), result.exception
    return result.exit_code, result.stdout, result.stderr


SIZE_48 = ("--image-size", 48)


def run_json(*arguments: object) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="session")
def photos() -> Path:
    """The photos inside the installed package."""
    import fbnetv3

    return Path(fbnetv3.__file__).parent / "data" / "photos"


@pytest.fixture(scope="session")
def saved(
    small_model: FBNetV3, small_preprocess: Preprocess, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A published folder with a network for ten classes."""
    folder = tmp_path_factory.mktemp("saved") / "small"
    save_pretrained(
        small_model,
        folder,
        preprocess=small_preprocess,
        labels=[f"thing {n}" for n in range(10)],
    )
    return f"local-dir:{folder}"


def test_version_and_help() -> None:
    assert run("--version")[1] == f"fbnetv3-zoo {__version__}\n"
    code, out, _ = run("classify", "-h")
    assert code == 0
    assert "Examples:\n  fbnetv3 classify" in out


def test_list_names_every_model() -> None:
    _, out, _ = run("list")
    assert all(name in out for name in ARCHS)
    rows = run_json("list", "fbnetv3_?")
    assert [row["name"] for row in rows] == [f"fbnetv3_{x}" for x in "abcdefg"]
    assert rows[0]["macs_paper"] == count(ARCHS["fbnetv3_a"]).macs_paper


def test_list_keeps_to_limits_and_licence() -> None:
    rows = run_json("list", "--pretrained", "--license", "commercial")
    assert {row["name"] for row in rows} == {w.name for w in WEIGHTS.values() if w.commercial}
    rows = run_json("list", "*.meta_in1k", "--max-macs", "600", "--min-top1", "80")
    assert {row["name"] for row in rows} == {"fbnetv3_b.meta_in1k", "fbnetv3_c.meta_in1k"}


def test_info_shows_licence_and_source() -> None:
    _, out, _ = run("info", "fbnetv3_e")
    assert "non-commercial use only" in out
    assert "81.25" in out
    assert run_json("info", "fbnetv3_e")["arch"] == ARCHS["fbnetv3_e"].to_dict()


def test_flops_are_the_published_figures() -> None:
    found = run_json("flops", "fbnetv3_a")
    assert found["macs_paper"] == 356_598_280
    assert found["weight_params"] == 8_542_224
    assert found["macs_fvcore"] == count(ARCHS["fbnetv3_a"]).macs_fvcore
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs_fvcore"]
    assert run_json("flops", "fbnetv3_a", "-r", "256")["macs_paper"] > 356_598_280


def test_weights_are_counted_with_their_own_classes() -> None:
    listed = {row["name"]: row["macs_paper"] for row in run_json("list", "--pretrained")}
    for name in ("fbnetv3_nano.cifar10", "fbnetv3_e.meta_in1k"):
        assert run_json("flops", name)["macs_paper"] == listed[name]
        assert run_json("info", name)["counts"]["macs_paper"] == listed[name]
    assert "10 classes" in run("info", "fbnetv3_nano.cifar10")[1]


def test_a_folder_is_counted_and_described(tmp_path: Path) -> None:
    model = build(ARCHS["fbnetv3_nano"], num_classes=3, in_chans=1)
    save_pretrained(model, tmp_path, labels=["a", "b", "c"], license="mit")
    name = f"local-dir:{tmp_path}"
    counts = count(ARCHS["fbnetv3_nano"], num_classes=3, in_chans=1)
    assert run_json("flops", name)["macs_paper"] == counts.macs_paper
    found = run_json("info", name)
    assert found["counts"]["params"] == counts.params
    assert found["license"] == "mit"
    assert f"{name}: licence mit" in run("info", name)[1]
    save_pretrained(model, tmp_path, license="cc-by-nc-4.0")
    assert f"{name}: licence cc-by-nc-4.0, non-commercial use only" in run("info", name)[1]


def test_flops_of_a_table_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(ARCHS["fbnetv3_nano"].to_json())
    assert run_json("flops", path)["params"] == count(ARCHS["fbnetv3_nano"]).params
    assert run_json("info", path)["arch"] == ARCHS["fbnetv3_nano"].to_dict()


def test_layers_are_shown_when_asked_for() -> None:
    assert "backbone" not in run("flops", "fbnetv3_nano")[1]
    assert len(run("flops", "fbnetv3_nano", "--layers")[1].splitlines()) > 30


def test_no_match_is_said() -> None:
    code, out, err = run("list", "--min-top1", "99.9", "--json")
    assert (code, json.loads(out), err) == (0, [], "note: no weights match\n")


def test_fetch_keeps_to_a_licence(tmp_path: Path) -> None:
    code, out, _ = run(
        "fetch", "fbnetv3_e.meta_in1k", "fbnetv3_nano.cifar10",
        "--license", "Apache-2.0", "--cache-dir", tmp_path,
    )  # fmt: skip
    assert code == 1
    assert "its licence is CC-BY-NC-4.0; --license asks for Apache-2.0" in out
    assert "fbnetv3_nano.cifar10.safetensors" in out


def test_fetch_keeps_to_the_policy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    code, out, _ = run("fetch", "fbnetv3_e.meta_in1k", "--cache-dir", tmp_path)
    assert code == 1
    assert "no commercial use" in out


def test_classify_answers_for_a_folder(saved: str, photos: Path) -> None:
    found = run_json("classify", photos, "--model", saved, "--top-k", 3)
    assert found["model"] == saved
    assert len(found["predictions"]) == len(list(list_images(photos))) >= 3
    for prediction in found["predictions"]:
        assert len(prediction["labels"]) == 3
        assert prediction["probabilities"] == sorted(prediction["probabilities"], reverse=True)


def test_classify_by_an_exported_file(small_export: Exported, photos: Path) -> None:
    found = run_json("classify", photos / "chelsea.jpg", "--model", small_export.path)
    assert found["predictions"][0]["labels"][0].startswith("thing ")


def test_classify_at_another_image_size_is_as_the_model_exported_for_it(
    saved: str, small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    any_size = tmp_path / "any.onnx"
    assert run("export", saved, "-o", any_size, "--dynamic", "batch+size")[0] == 0
    own, here, there = (
        run_json("classify", photos, "--model", model, *size)["predictions"]
        for model, size in ((saved, ()), (saved, SIZE_48), (any_size, SIZE_48))
    )
    for usual, one, other in zip(own, here, there, strict=True):
        assert one["labels"] == other["labels"]
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=1e-5)
        assert usual["probabilities"] != one["probabilities"]
    code, _, err = run("classify", photos, "--model", small_export.path, *SIZE_48)
    assert code == 2
    assert "small.onnx is a file for 32 pixels; export the model with --image-size" in err
    code, _, err = run("classify", photos, "--model", saved, "--image-size", 0)
    assert (code, err.count("image_size is 0; expected a whole number of pixels")) == (2, 1)


def test_a_broken_photo_is_named_and_the_others_go_on(
    saved: str, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "chelsea.jpg", tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("this is no photo")
    (tmp_path / "empty.png").touch()
    whole = (photos / "coffee.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    missing = tmp_path / "nowhere.jpg"
    code, out, err = run("classify", tmp_path, missing, "--model", saved)
    assert code == 1
    lines = {line.split(": ")[0]: line for line in out.splitlines()}
    for name in ("text.jpg", "empty.png", "cut.jpg", "nowhere.jpg"):
        assert ": error: " in lines[str(tmp_path / name)]
    assert "%" in lines[str(tmp_path / "good.jpg")]
    assert "4 of the images" in err


def test_odd_but_whole_photos_are_classified(saved: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    rgb.convert("L").save(tmp_path / "grey.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("P").save(tmp_path / "palette.png")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    rgb.save(tmp_path / "moving.gif", save_all=True, append_images=[rgb.rotate(90)])
    code, out, err = run("classify", tmp_path, "--model", saved)
    assert code == 0, out + err
    assert out.count("%") == 5 * 6


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "fbnetv3_z"], 2, "did you mean"),
        (["classify", "nowhere.jpg"], 2, "no such file or folder: nowhere.jpg"),
        (["classify", "{photo}", "--embedded", "--model", "fbnetv3_a"], 2, "exclude each other"),
        (["classify", "{photo}", "--model", "fbnetv3_zz"], 2, "unknown model 'fbnetv3_zz'"),
        (["classify", "{photo}", "--model", "local-dir:/nowhere"], 2, "/nowhere"),
        (["classify", "{photo}", "--model", "none.onnx"], 2, "none.onnx"),
        (["classify", "{photo}", "--model", "fbnetv3_a", "--offline"], 1, "offline"),
        (
            ["classify", "{photo}", "--model", "fbnetv3_a", "--license", "commercial"],
            2,
            "CC-BY-NC-4.0",
        ),
        (["flops", "fbnetv3_a", "-r", "16"], 2, "49"),
        (["flops", "nowhere.json"], 2, "nowhere.json"),
        (["fetch"], 2, "give names, or --all"),
        (["list", "--license", "GPL"], 2, "license is 'GPL'"),
        (["convert", "nowhere.pth", "x.safetensors", "--model", "fbnetv3_a"], 2, "nowhere.pth"),
        (["convert", "a.pth", "b.pth", "--model", "fbnetv3_a"], 2, ".safetensors"),
        (["verify", "fbnetv3_a.meta_in1k"], 2, "fbnetv3 fetch fbnetv3_a.meta_in1k"),
    ],
)
def test_a_mistake_ends_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    given = [word.format(photo=photos / "chelsea.jpg") for word in arguments]
    found, out, err = run(*given)
    assert found == code
    assert message in err
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize("arguments", [["nonsense"], ["list", "--nonsense"], ["classify"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_a_missing_optional_part_exits_with_3(
    saved: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fbnetv3.deploy.classify", None)
    code, _, err = run("classify", photos / "chelsea.jpg", "--model", saved)
    assert code == 3
    assert err.startswith("error: ")


def test_without_a_hub_the_embedded_weights_answer_and_say_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("classify", photos / "chelsea.jpg")
    assert code == 0, err
    assert f"model: {EMBEDDED}" in out
    assert "CIFAR-10" in err
    found = run_json("classify", photos / "chelsea.jpg", "--embedded")
    assert found["model"] == EMBEDDED
    assert found["predictions"][0]["labels"][0] == "cat"


def test_how_far_to_trust_none_of_these_is_said_where_it_is_answered(
    photos: Path, tmp_path: Path
) -> None:
    said = (
        "note: 1 image marked as none of the classes, by a threshold that 76 % of images of its "
        "classes and 20 % of others passed where it was fitted\n"
    )
    for output in ((), ("-o", tmp_path / "answers.csv")):
        code, _, err = run("classify", photos / "coffee.jpg", "--embedded", *output)
        assert (code, err) == (0, said)
    code, _, err = run("classify", photos / "chelsea.jpg", "--embedded")
    assert (code, err) == (0, "")


def test_convert_goes_to_the_official_layout_and_back(small_model: FBNetV3, tmp_path: Path) -> None:
    table = tmp_path / "small.json"
    table.write_text(small_model.arch.to_json())
    ours, official, back = (tmp_path / f"{n}.safetensors" for n in ("ours", "official", "back"))
    write_tensors(ours, small_model.state_dict(), {})
    assert run("convert", ours, official, "--model", table, "--to", "official")[0] == 0
    expected = from_fbnetv3(small_model.state_dict(), small_model.arch, "official")
    assert set(read_tensors(official)) == set(expected)
    code, out, _ = run("convert", official, back, "--model", table)
    assert code == 0
    assert "(official)" in out
    for name, tensor in read_tensors(back).items():
        assert torch.equal(tensor, small_model.state_dict()[name])


def test_convert_does_not_write_over_its_source(small_model: FBNetV3, tmp_path: Path) -> None:
    table, ours = tmp_path / "small.json", tmp_path / "ours.safetensors"
    table.write_text(small_model.arch.to_json())
    write_tensors(ours, small_model.state_dict(), {"license": "mit"})
    (tmp_path / "link.safetensors").symlink_to(ours)
    before = ours.read_bytes()
    for target in (ours, tmp_path / "link.safetensors"):
        code, _, err = run("convert", ours, target, "--model", table, "--to", "official")
        assert code == 2
        assert "the file to convert; give another name" in err
    assert ours.read_bytes() == before


def test_convert_refuses_another_networks_weights(small_model: FBNetV3, tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    write_tensors(ours, small_model.state_dict(), {})
    target = tmp_path / "b.safetensors"
    code, _, err = run("convert", ours, target, "--model", "fbnetv3_b")
    assert code == 2
    assert "error: " in err
    assert not target.exists()


def test_verify_passes_for_a_published_network() -> None:
    rows = run_json("verify", "fbnetv3_a0")
    assert [row["name"] for row in rows] == ["published counts", "golden logits"]
    assert all(row["ok"] for row in rows)


def test_doctor_is_content_here() -> None:
    checks = {check["name"]: check for check in run_json("doctor")}
    assert checks["torch"]["ok"]
    assert checks["import torchvision"]["ok"]


def test_the_program_runs_as_a_module_and_piped(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fbnetv3", "info", "nonsense"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "40"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown model 'nonsense'")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a Unix shell does")
def test_closed_streams_get_nothing_and_a_full_one_is_one_line() -> None:
    program = f"{shlex.quote(sys.executable)} -m fbnetv3"

    def end(command: str) -> tuple[int, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # written when the program ends
        done = subprocess.run(
            command, shell=True, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
        return done.returncode, done.stderr

    assert end(f"{program} info fbnetv3_a <&- >&-") == (0, "")
    assert end(f"{program} info nonsense <&- >&- 2>&-") == (2, "")
    if Path("/dev/full").exists():
        said = "error: cannot write the output: No space left on device\n"
        assert end(f"{program} info fbnetv3_a >/dev/full") == (1, said)


def test_help_without_docstrings_says_what_is_missing() -> None:
    command = [sys.executable, "-OO", "-m", "fbnetv3", "flops", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--layers" in done.stdout
    assert done.stdout.endswith("The description is missing: PYTHONOPTIMIZE=2 leaves it out.\n")


def test_list_imports_neither_torch_nor_numpy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fbnetv3", "list", "--pretrained"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in io.StringIO(done.stderr)}
    assert "fbnetv3.hub.registry" in modules
    assert not modules & {"torch", "numpy", "timm", "onnx", "onnxruntime", "PIL"}


@pytest.mark.parametrize("terminal", ["", "1"])
def test_a_table_is_as_wide_as_it_needs_and_has_no_empty_column(
    terminal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)  # rich takes the output for a terminal
    heads = ("model", "threads", "peak MiB", "verdict")
    print_table(heads, [("fbnetv3_nano.cifar10", 1, None, "noisy: " + "busy " * 100)])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert shown[1].split() == ["model", "threads", "verdict"]
    assert "busy " * 99 in shown[3]


def test_what_steers_a_terminal_is_escaped_in_names(
    small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    name = "\x1b[2J\x1b]0;owned\x07.jpg"
    shutil.copy(photos / "chelsea.jpg", tmp_path / name)
    (tmp_path / f"damaged {name}").write_bytes(b"no image")
    (tmp_path / "x.\x1b[31m").write_bytes(b"")
    code, out, err = run("classify", tmp_path, "--model", small_export.path)
    assert code == 1
    assert {character for character in out + err if not character.isprintable()} == {"\n"}
    assert r"/\x1b[2J\x1b]0;owned\x07.jpg: thing" in out
    assert r"/damaged \x1b[2J\x1b]0;owned\x07.jpg: error: " in out
    assert r".\x1b[31m 1" in err
    code, out, err = run("classify", tmp_path / "absent\x1b[2J.jpg", "--embedded")
    assert r"absent\x1b[2J.jpg" in err


def test_a_console_without_the_letters_of_a_name_gets_all_lines(
    small_export: Exported, photos: Path, tmp_path: Path
) -> None:
    for name in ("\u00fcber \u732b.jpg", "z.jpg"):
        shutil.copy(photos / "chelsea.jpg", tmp_path / name)
    command = ["-m", "fbnetv3", "classify", str(tmp_path), "--model", str(small_export.path)]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
        timeout=100,
    )
    _, first, second = done.stdout.decode("ascii").splitlines()
    assert "z.jpg: " in first
    assert r"\xfcber \u732b.jpg: " in second


def test_names_in_a_table_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("file",), [("a[bold]b :cat:.jpg",)])
    assert "a[bold]b :cat:.jpg" in capsys.readouterr().out


def test_limits_are_millions_or_have_a_unit() -> None:
    rows = [
        run_json("list", "--max-macs", limit, "--min-top1", "80")
        for limit in ("600", "600M", "0.6g", "6e8", "600000k")
    ]
    assert rows[0]
    assert rows[1:] == rows[:1] * 4
    code, _, err = run("list", "--max-macs", "few")
    assert code == 2
    assert "limit is 'few'; expected millions (600), 600M, 0.6G or 6e8" in err


def test_what_the_image_library_deplores_in_a_file_is_not_printed(tmp_path: Path) -> None:
    # A directory of five entries that ends in the first.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (32, 32), "red").save(path, exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as opened:
        opened.getexif()
    code, out, err = run("classify", path, "--embedded")
    assert code == 0
    assert "odd.jpg: " in out
    assert "EXIF" not in err
