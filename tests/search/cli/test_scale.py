"""`fbnetv3-search scale`: the documented examples are the paper's, and mistakes are one line."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cli.app import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def documented() -> dict[str, list[str]]:
    """Returns the output's name -> words of each example in the help."""
    text = call("scale", "--help").stdout.partition("\nExamples:\n")[2]
    lines = [shlex.split(line)[1:] for line in text.replace("\\\n", " ").strip().splitlines()]
    return {words[-1]: words for words in lines}


@pytest.mark.parametrize("letter", ["a", "f", "g"])
def test_the_examples_give_the_released_networks(
    letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*documented()[f"{letter}.json"])
    assert done.exit_code == 0, done.output
    released = ARCHS[f"fbnetv3_{letter}"].same_padding()
    assert Arch.from_json(Path(f"{letter}.json").read_text()) == released
    counts = count(released)
    assert f"{counts.macs_paper / 1e6:.1f} M MACs" in done.stdout
    assert f"{counts.params / 1e6:.2f} M parameters" in done.stdout


def test_scaling_to_macs_writes_what_it_prints(tmp_path: Path) -> None:
    out = tmp_path / "arch.json"
    done = call("scale", "fbnetv3_a", "--macs", 6e8, "--shares", "2,1,1", "--num-classes", 10,
                "-o", out, "--json")  # fmt: skip
    found = json.loads(done.stdout)
    counts = count(Arch.from_json(out.read_text()), num_classes=10)
    assert (counts.macs_paper, counts.params) == (found["macs_paper"], found["params"])
    assert 4.8e8 < counts.macs_paper <= 6e8
    assert found["width"] == pytest.approx(found["depth"])  # width acts squared


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no scaling given; expected either --macs or factors"),
        (["--macs", "6e8", "--raw-width", "MB4=76"], "--macs and --raw-width; expected either"),
        (["--set", "MB7=2"], "--set 'MB7=2' is not understood; expected MB7.repeats=2"),
        (["--set", "MB7.repeats=x"], "is not understood; expected MB7.repeats=2"),
        (["--set", "MB7.size=2"], "MB7 has no cell 'size'"),
        (["--raw-width", "MB4"], "is not understood; expected MB4=76"),
        (["--raw-width", "MB9=4"], "no row 'MB9'"),
        (["--macs", "6e8", "--shares", "1,1"], "expected three numbers such as 2,1,1"),
        (["--macs", "6e8", "--shares", "0,0,0"], "expected numbers of 0 or more, not all 0"),
        (["--width", "0"], "width is 0.0; expected a factor above 0"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = call("scale", "fbnetv3_b", "-o", tmp_path / "x.json", *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
