"""Every command's help: purpose, full names at 80 columns, and examples that work."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fbnetv3
from fbnetv3 import __version__
from fbnetv3.checkpoints.checkpoint import write_tensors
from fbnetv3.checkpoints.convert import from_fbnetv3
from fbnetv3.integrations.drawn_shapes import draw_shapes
from fbnetv3.models.model import FBNetV3
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from tests.shell import APPS, COMMANDS_OF, PROGRAMS, Done, carried_out, check_words, own_words

PHOTOS = Path(fbnetv3.__file__).parent / "data" / "photos"
COMMANDS = [(program, name) for program, found in COMMANDS_OF.items() for name in found]


def shown(program: str, *words: str) -> str:
    """Returns what a program prints on a terminal of 80 columns."""
    done = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(
        APPS[program], words, prog_name=program
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def examples(program: str, command: str) -> list[str]:
    """Returns the shell lines under "Examples:" of a command's help, as a user would copy them."""
    help = shown(program, *command.split(), "--help")
    _, found, block = help.partition("\nExamples:\n")
    assert found, f"{program} {command} --help has no examples"
    return block.replace("\\\n", " ").strip().splitlines()


EXAMPLES = [
    pytest.param(program, command, line.strip(), id=line.strip())
    for program, command in COMMANDS
    for line in examples(program, command)
]


def test_help_in_front_of_a_command_is_its_help() -> None:
    assert shown("fbnetv3", "help", "train") == shown("fbnetv3", "train", "--help")
    words = ("detect", "train")
    assert shown("fbnetv3", "help", *words) == shown("fbnetv3", *words, "--help")


@pytest.mark.parametrize("program", PROGRAMS)
def test_both_programs_have_the_same_options(program: str) -> None:
    assert shown(program, "--version") == f"fbnetv3-zoo {__version__}\n"
    assert shown(program, "-V") == shown(program, "--version")
    assert shown(program, "-h") == shown(program, "--help") == shown(program, "help")
    assert f"options: {program} --help-all" in shown(program, "--help")
    text = shown(program, "--help-all")
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage" in text
    assert {"--version", "--install-completion", "--show-completion"} <= set(text.split())


GROUPS = {**PROGRAMS, "fbnetv3 detect": PROGRAMS["fbnetv3"].commands["detect"]}


@pytest.mark.parametrize("name", GROUPS)
def test_the_list_of_commands_fits_a_screen(name: str) -> None:
    program, *words = name.split()
    lines = shown(program, *words, "--help").splitlines()
    # A terminal of 24 lines, the last of which is the next prompt.
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(("...", " ")) for line in lines)
    # Task, command and what it does.
    listed = [re.fullmatch(r"([A-Z]\w+)? +([a-z-]+)  +([A-Z].*\w)", line) for line in lines]
    named = [found[2] for found in listed if found]
    assert sorted(named) == sorted(GROUPS[name].commands)
    full = shown(program, *words, "--help-all").splitlines()
    assert [line for line in full if line in lines and line] == [
        line for line, found in zip(lines, listed, strict=True) if found
    ]


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_help_shows_every_option_in_full_at_80_columns(program: str, command: str) -> None:
    text = shown(program, *command.split(), "-h")
    assert text == shown(program, *command.split(), "--help")
    assert all(len(line) <= 80 for line in text.splitlines()), text
    assert "…" not in text
    words = set(re.findall(r"-[-\w]+", text))
    for parameter in COMMANDS_OF[program][command].params:
        if parameter.param_type_name == "option":
            assert {*parameter.opts, *parameter.secondary_opts} <= words
            assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_help_says_what_is_done_and_what_is_written(program: str, command: str) -> None:
    text = shown(program, *command.split(), "-h").partition("\nOptions:")[0]
    assert re.search(r"\bwrites?\b", text, re.IGNORECASE), text
    # Usage, one line of purpose, a paragraph.
    assert text.count("\n\n") >= 2


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_help_has_a_few_examples(program: str, command: str) -> None:
    lines = examples(program, command)
    least = 1 if command in ("rebuild",) else 2
    assert least <= len(lines) <= 5
    assert any(line.strip().startswith(f"{program} {command}") for line in lines)


@pytest.mark.parametrize(("program", "command", "line"), EXAMPLES)
def test_an_example_names_a_command_and_options_that_exist(
    program: str, command: str, line: str
) -> None:
    named, words = own_words(line)
    assert (named, words[: command.count(" ") + 1]) == (program, command.split())
    check_words(line)


# Needed things that a test has not got -> examples that need them.
ABROAD = {
    "weights from the hub": ("fbnetv3_b.ra2_in1k", "fbnetv3_e.meta_in1k", "fetch --all"),
    "a whole data set": ("imagenet", "cifar-10-batches-py", "timm:", "runs/s", "--data coco"),
    "a browser's runtime, or a server that goes on": ("fbnetv3 demo",),
    "a GPU": ("--device cuda",),
    "a cluster": ("--engine ray",),
    "minutes on an idle machine": ("latency-table", "bench --table", "torchrun"),
    "all of a large network": ("fbnetv3_a fbnetv3_b",),
}
# `info` and `flops` need no weights.
OFFLINE = ("fbnetv3 info", "fbnetv3 flops")
SLOW = ("fbnetv3 export", "fbnetv3 quantize", "fbnetv3 latency", "fbnetv3 train", "fbnetv3 eval",
        "fbnetv3 verify", "fbnetv3 detect",
        "fbnetv3-search run", "fbnetv3-search bench")  # fmt: skip


def why_not(line: str) -> str | None:
    """Returns what an example needs that a test has not got."""
    if line.startswith(OFFLINE) or "--seeds 1" in line:
        return None
    return next((why for why, marks in ABROAD.items() if any(m in line for m in marks)), None)


def test_most_examples_are_run() -> None:
    lines = [str(example.values[2]) for example in EXAMPLES]
    assert sum(why_not(line) is None for line in lines) > len(lines) / 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_model: FBNetV3) -> Iterator[Path]:
    """A folder with the files that examples name."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(PHOTOS / "chelsea.jpg", folder / "photo.jpg")
    for name, photo in (("cat", "chelsea.jpg"), ("dog", "coffee.jpg")):
        for copy in range(4):
            target = folder / "photos" / name / f"{copy}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PHOTOS / photo, target)
    (folder / "mine.json").write_text(small_model.arch.to_json())
    write_tensors(folder / "mine.safetensors", small_model.state_dict(), {})
    e = fbnetv3.create("fbnetv3_e")
    write_tensors(folder / "model.pth", from_fbnetv3(e.state_dict(), e.arch, "official"), {})
    space = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(6)))
    (folder / "space.json").write_text(space.to_json())
    (folder / "candidates.csv").write_text("g0,g1,g2,g3,g4,g5\n0,0,0,0,0,0\n3,3,3,3,3,3\n")
    weights = np.array((0.5, 1.0, 2.0, 0.25, 1.5, 3.0))
    rows = space.unique(space.sample(400, np.random.default_rng(0))).tolist()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"g{n}" for n in range(6)), "cost:macs", "label:0", "label:1"])
        for row in rows:
            label = 60 + float(np.dot(row, weights))
            writer.writerow([*row, 100 + sum(row), label, label + 0.1])
    (folder / "mine.py").write_text(
        "class Mine:\n"
        "    def evaluate(self, genes, *, seed, epochs):\n"
        "        yield from [50 + sum(genes)] * epochs\n"
        "make = Mine\n"
    )
    draw_shapes(folder / "shapes", side=96, rng=np.random.default_rng(0))
    yield folder
    shutil.rmtree(folder)


def without_network(line: str, folder: Path) -> Done:
    """Carries a line out in a folder, with a cache of its own."""
    offline = {"FBNETV3_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    return carried_out(line, folder, {"FBNETV3_HOME": str(folder / "cache"), **offline})


# What one example writes and others need: they are made once, in this order.
MADE = {
    "nano.onnx": "fbnetv3 export fbnetv3_nano.cifar10 -o nano.onnx",
    "run": "fbnetv3 train --data photos --model fbnetv3_nano.cifar10 --out run",
    "detector": "fbnetv3 detect train --data shapes --model fbnetv3_nano --out detector "
    "--epochs 2 --size 96",
    "detector.onnx": "fbnetv3 detect export detector -o detector.onnx",
    "runs/t": "fbnetv3-search run runs/t --space space.json --table labels.csv "
    '--batch 8 --rounds 1 --predictor gp --limit "macs<=110"',
}


# What of an example tells that it needs a library.
NEEDS = {
    "run.xml": "openvino",
    "detector.xml": "openvino",
    "int8.xml": "nncf",
    "--optuna": "optuna",
}


def marks(line: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.needs(library) for word, library in NEEDS.items() if word in line.split()]
    return [*found, pytest.mark.slow] if line.startswith(SLOW) else found


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=marks(line), id=line)
        for line in (str(example.values[2]) for example in EXAMPLES)
        if why_not(line) is None
    ],
)
def test_an_example_works(line: str, place: Path) -> None:
    _, words = own_words(line)
    for name, command in MADE.items():
        needed = name in words or f"local-dir:{name}" in words
        needed |= name == "detector" and "detector.onnx" in words
        if needed and words[0] not in ("run", "train") and not (place / name).exists():
            made = without_network(command, place)
            assert made.code == 0, made.err
    done = without_network(line, place)
    assert done.code == 0, done.out + done.err
    assert "Traceback" not in done.err
