"""Each command says which weights it uses, and a script can insist on them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fbnetv3.cli import doctor
from fbnetv3.cli.doctor import diagnose
from fbnetv3.hub.weights import WEIGHTS
from fbnetv3.images.labels import example_photos
from tests.shell import APPS

PHOTO = str(example_photos()[0])


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(APPS["fbnetv3"], list(words))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_other_weights_than_the_default_are_said_on_the_first_line() -> None:
    code, out, err = run("classify", PHOTO)
    assert code == 0
    assert out.splitlines()[0] == (
        "model: fbnetv3_nano.cifar10, instead of fbnetv3_b.ra2_in1k; it knows only 10 classes"
    )
    assert "offline, and fbnetv3_b.ra2_in1k is not on this machine" in err


def test_other_weights_than_the_default_are_in_the_json() -> None:
    code, out, _ = run("classify", PHOTO, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["model"], found["instead_of"], found["num_classes"]) == (
        "fbnetv3_nano.cifar10",
        "fbnetv3_b.ra2_in1k",
        10,
    )


def test_what_was_asked_for_replaces_nothing() -> None:
    _, out, _ = run("classify", PHOTO, "--embedded", "--json")
    assert json.loads(out)["instead_of"] is None
    _, out, _ = run("classify", PHOTO, "--embedded", "--require")
    assert out.splitlines()[0] == "model: fbnetv3_nano.cifar10"


def test_a_script_that_requires_the_default_gets_an_exit_code() -> None:
    code, out, err = run("classify", PHOTO, "--require")
    assert (code, out) == (1, "")
    assert "fbnetv3_b.ra2_in1k is not on this machine" in err


def test_export_of_a_bare_name_says_which_weights_it_takes(tmp_path: Path) -> None:
    output = str(tmp_path / "x.onnx")
    _, _, err = run("export", "fbnetv3_nano", "-o", output)
    assert err.splitlines()[0] == (
        "note: fbnetv3_nano: with the weights fbnetv3_nano.cifar10, Apache-2.0"
    )
    _, _, err = run("export", "fbnetv3_nano", "-o", output, "--no-pretrained")
    assert err.splitlines()[0] == "note: fbnetv3_nano: its weights are fresh, not trained"
    code, _, err = run("export", "fbnetv3_nano.cifar10", "-o", output)
    assert (code, err) == (0, "")


def test_info_says_who_states_the_hash() -> None:
    _, out, _ = run("info", "fbnetv3_b")
    assert "SHA-256 recorded at first use (not published)" in out
    assert "SHA-256 recorded at first use (the hub states it; of the second source ead5d2a1" in out
    _, out, _ = run("info", "fbnetv3_nano.cifar10")
    assert "SHA-256 stated in the package" in out
    assert WEIGHTS["fbnetv3_nano.cifar10"].hash_origin == "stated in the package"


@pytest.fixture(name="silent")
def _silent() -> Iterator[str]:
    """A proxy that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in kept:
            connection.close()


def test_a_silent_proxy_is_given_up_soon(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FBNETV3_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", silent)
    monkeypatch.setenv("https_proxy", silent)
    start = time.monotonic()
    code, out, _ = run("classify", PHOTO)
    assert code == 0
    assert "instead of fbnetv3_b.ra2_in1k" in out.splitlines()[0]
    # Four seconds for each of the two sources; twenty and more without the limit, on any machine.
    assert time.monotonic() - start < 60


def test_doctor_asks_the_sources_of_weights(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ANSWER_S", 0.2)
    monkeypatch.setenv("HF_ENDPOINT", silent)
    monkeypatch.setenv("FBNETV3_MIRROR", Path(PHOTO).as_uri())
    monkeypatch.setenv("https_proxy", silent)
    found = {check.name: check for check in diagnose(network=True)}
    assert not found["hub"].ok
    assert "timed out" in found["hub"].found
    assert "FBNETV3_MIRROR" in found["hub"].fix
    assert found["official weights"].ok
    assert not found["timm's release"].ok
    assert silent in found["timm's release"].found
    assert "hub" not in {check.name for check in diagnose()}
