"""Completion as shells ask for it: the right words, from both programs, and quickly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fbnetv3.cli import completion
from fbnetv3.deploy.calibration import METHODS
from fbnetv3.detection.data import AUGMENTATIONS
from fbnetv3.detection.detectors import DETECTORS
from fbnetv3.hub.registry import list_models, list_weights
from fbnetv3.measure.runners import TORCH_BACKENDS
from fbnetv3.search.nars.config import IN_TURN
from fbnetv3.search.nars.selection import BINS
from fbnetv3.search.predictors.registry import PREDICTORS
from fbnetv3.search.space.spaces import SPACES
from fbnetv3.search.training.presets import PRESETS
from tests.shell import APPS, COMMANDS_OF

SHELLS = ("bash", "zsh", "fish")


def question(shell: str, line: str) -> dict[str, str]:
    """Returns the environment in which a shell asks what may follow a line."""
    program = line.split(maxsplit=1)[0].replace("-", "_").upper()
    asked = {f"_{program}_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        words = line.split(" ")
        return asked | {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    asked["_TYPER_COMPLETE_ARGS"] = line
    return asked | ({"_TYPER_COMPLETE_FISH_ACTION": "get-args"} if shell == "fish" else {})


def offered(shell: str, line: str) -> list[str]:
    """Returns the words that a shell is offered after a line."""
    program = line.split(maxsplit=1)[0]
    done = CliRunner().invoke(APPS[program], [], prog_name=program, env=question(shell, line))
    assert done.exit_code == 0, done.output
    if shell == "zsh":
        return [part.strip('"') for part in done.stdout.split("((")[-1].split("))")[0].split("\n")
                if part.startswith('"')]  # fmt: skip
    return [word for word in done.stdout.splitlines() if word]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_of_models_and_weights_are_completed(shell: str) -> None:
    expected = sorted(name for name in [*list_models(), *list_weights()] if "fbnetv3_b" in name)
    assert offered(shell, "fbnetv3 export fbnetv3_b") == expected
    assert "fbnetv3_b.ra2_in1k" in expected
    tags = offered(shell, "fbnetv3 classify photo.jpg --model fbnetv3_b.")
    assert tags == list_weights("fbnetv3_b")


@pytest.mark.parametrize("shell", SHELLS)
def test_spaces_and_recipes_are_completed(shell: str) -> None:
    assert offered(shell, "fbnetv3-search space pa") == ["paper_joint"]
    assert offered(shell, "fbnetv3-search run s --space cifar") == ["cifar_joint"]
    assert offered(shell, "fbnetv3 train --recipe fi") == ["final", "fine-tune"]
    assert offered(shell, "fbnetv3 export fbnetv3_a --precision fp1") == ["fp16"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_and_options_are_completed(shell: str) -> None:
    assert offered(shell, "fbnetv3-search lat")[0].startswith("latency-table")
    found = offered(shell, "fbnetv3 export fbnetv3_a --include")
    assert found[0].startswith("--include-preprocess")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fbnetv3-search run s --space ", SPACES),
        ("fbnetv3-search run s --bins ", {*BINS, IN_TURN}),
        ("fbnetv3-search run s --predictor ", PREDICTORS),
        ("fbnetv3-search run s --engine ", {"local", "ray"}),
        ("fbnetv3 train --recipe ", PRESETS),
        ("fbnetv3 latency x --backend ", TORCH_BACKENDS),
        ("fbnetv3 quantize x.onnx --method ", METHODS),
        ("fbnetv3 quantize x.onnx --runtime ", {"litert", "onnxruntime", "openvino"}),
        ("fbnetv3 export x --precision ", {"fp32", "fp16"}),
        ("fbnetv3 export x --dynamic ", {"batch", "batch+size", "none"}),
        ("fbnetv3 detect train --detector ", DETECTORS),
        ("fbnetv3 detect train --augment ", AUGMENTATIONS),
        ("fbnetv3 convert x y --to ", {"fbnetv3", "official", "timm"}),
    ],
)
def test_the_words_offered_are_those_that_the_library_takes(
    line: str, words: Collection[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(offered("bash", line)) == set(words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "fbnetv3 export fbnetv3_a -o x.onnx --precision fp8",
            "--precision is 'fp8'; expected one of fp32, fp16",
        ),
        (
            "fbnetv3 quantize x.onnx --calib . -o y.onnx --method guess",
            "--method is 'guess'; expected one of minmax, mean_minmax, percentile_99.99, "
            "percentile_99.9, mse",
        ),
        (
            "fbnetv3 eval fbnetv3_a --data . --split test",
            "--split is 'test'; expected one of train, val",
        ),
        (
            "fbnetv3-search run s --space cifar_joint --bins odd",
            "--bins is 'odd'; expected one of equal, quantile, none, limits",
        ),
        (
            "fbnetv3-search run s --space cifar_joint --engine cloud",
            "--engine is 'cloud'; expected one of local, ray",
        ),
    ],
)
def test_a_wrong_word_ends_in_one_line_with_those_that_are_expected(
    line: str, message: str
) -> None:
    program, *arguments = line.split()
    done = CliRunner().invoke(APPS[program], arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"


def test_files_are_completed_by_their_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.onnx", "a.txt", "b.ONNX", ".hidden.onnx", "deep/only/c.onnx", "empty/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    onnx = completion.files(".onnx")
    assert onnx("") == ["a.onnx", "b.ONNX", "deep/", "empty/"]
    assert onnx("a") == ["a.onnx"]
    assert onnx(".h") == [".hidden.onnx"]
    # A folder alone is gone through: as the only word it would be taken for the answer.
    assert onnx("de") == ["deep/only/c.onnx"]
    assert onnx("em") == []
    assert onnx("nowhere/x") == []
    assert onnx(f"{tmp_path}/a") == [f"{tmp_path}/a.onnx"]
    assert offered("bash", "fbnetv3 quantize a") == ["a.onnx"]
    assert offered("bash", "fbnetv3 latency a") == ["a.onnx"]


def test_a_new_file_gets_its_endings() -> None:
    ends = completion.endings(".onnx", ".xml")
    assert ends("out/e") == ["out/e.onnx", "out/e.xml"]
    assert ends("e.o") == ["e.onnx"]
    assert ends("v1.2/e") == ["v1.2/e.onnx", "v1.2/e.xml"]
    assert ends("out/") == ["out/model.onnx", "out/model.xml"]
    assert ends("e.txt") == []
    assert offered("fish", "fbnetv3 export fbnetv3_a -o e.p") == ["e.pte", "e.pt2"]


@pytest.mark.parametrize("program", APPS)
def test_every_completer_answers(program: str) -> None:
    count = 0
    for command in COMMANDS_OF[program].values():
        with command.make_context(command.name, [], resilient_parsing=True) as context:
            for parameter in command.params:
                if parameter._custom_shell_complete is not None:
                    count += 1
                    words = parameter.shell_complete(context, "")
                    assert all(isinstance(word.value, str) for word in words)
    assert count > 8


@pytest.mark.parametrize("program", APPS)
@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_is_given(program: str, shell: str) -> None:
    name = f"_{program.replace('-', '_').upper()}_COMPLETE"
    done = CliRunner().invoke(APPS[program], [], prog_name=program, env={name: f"source_{shell}"})
    assert done.exit_code == 0
    assert name in done.stdout
    assert program in done.stdout


def test_bash_itself_completes_by_the_script_that_it_is_given() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    script = """
eval "$(_FBNETV3_COMPLETE=source_bash fbnetv3)"
COMP_WORDS=(fbnetv3 export fbnetv3_nano) COMP_CWORD=2
"$(complete -p fbnetv3 | grep -o '[^ ]*completion')" fbnetv3
printf '%s\n' "${COMPREPLY[@]}"
"""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["fbnetv3_nano", "fbnetv3_nano.cifar10"], done.stderr


@pytest.mark.parametrize(
    "line", ["fbnetv3 export fbnetv3_", "fbnetv3-search run s --space ", "fbnetv3 train --recipe "]
)
@pytest.mark.parametrize("shell", SHELLS)
def test_completing_loads_nothing_heavy(shell: str, line: str) -> None:
    module = "fbnetv3.cli.app" if line.startswith("fbnetv3 ") else "fbnetv3.search.cli.app"
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['{line.split(maxsplit=1)[0]}']; from {module} import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **question(shell, line)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()
    loaded = set(done.stderr.split())
    assert not {"torch", "numpy", "timm", "onnx", "scipy", "PIL", "rich"} & loaded
    # 191 when this was written, in 0.3 s on an idle core; numpy alone has a hundred.
    assert len(loaded) < 250
