"""The page about the paper is what its records give; what it names exists; figures are measured."""

import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.modules import benchmark
from tests.paths import ROOT
from tests.shell import check_words

WORDS = (
    "JointNAS",
    "AutoTrain",
    "NARS",
    "coarse stage",
    "fine stage",
    "neural acquisition function",
    "proxy head",
    "accuracy head",
    "compound scaling",
    "RegNetY-32G",
)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return benchmark("paper.page")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    return benchmark("paper.figures")


def test_the_page_is_what_its_records_give(page: ModuleType) -> None:
    assert page.PAGE.read_text() == page.render()


def test_the_papers_words_are_on_the_page(page: ModuleType) -> None:
    text = page.PAGE.read_text().lower()
    assert [word for word in WORDS if word.lower() not in text] == []


def test_every_file_and_command_of_a_claim_exists(page: ModuleType) -> None:
    places = [place for claim in page.claims() for place in claim.where]
    assert len(places) > 50
    for place in places:
        if place.startswith(("fbnetv3 ", "fbnetv3-search ")):
            check_words(place)
        elif place.startswith("python -m "):
            assert (ROOT / place.split()[2].replace(".", "/")).with_suffix(".py").is_file(), place
        else:
            assert (ROOT / place).is_file(), place


def test_commands_in_prose_name_scripts(page: ModuleType) -> None:
    found = re.findall(r"`python -m (benchmarks\.[\w.]+)", page.PAGE.read_text())
    assert found
    for name in found:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file(), name


def test_every_figure_is_used_and_comes_from_a_committed_result(page: ModuleType) -> None:
    used = {name for claim in page.claims() for name in claim.figures}
    assert used == set(page.FIGURES)
    files = {figure.file for figure in page.FIGURES.values()}
    assert files == set(page.COMMANDS)
    folder = ROOT / "benchmarks" / "results"
    assert all((folder / file).is_file() for file in files)
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert {f"benchmarks/results/{file}" for file in files} <= set(listed.stdout.splitlines())


def test_no_measured_decimal_is_written_by_hand(page: ModuleType) -> None:
    for claim in page.claims():
        assert not re.search(r"\d\.\d", re.sub(r"\{\w+\}", "", claim.measured)), claim.measured


def test_figures_are_computed_from_what_the_file_holds(page: ModuleType) -> None:
    figure = page.FIGURES["wide_short"]
    lines = [
        {"network": network, "recipe": "6 epochs", "seed": seed, "top1_pct": top1}
        for seed in (0, 1)
        for network, top1 in (("1.45 x width", 50.0 + seed), ("2 x depth", 48.0))
    ]
    # Leads of 2 and 3: mean 2.5, and 12.71 standard errors of 0.5 either way.
    assert figure.value(lines) == "+2.50 (95 % interval -3.85 to 8.85; 2 seeds)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verdict": "splendid", "where": ["README.md"]}, "verdict is 'splendid'"),
        ({"verdict": "reproduced", "where": ["README.md"]}, "without a figure"),
        ({"verdict": "not measured yet", "where": ["README.md"]}, "only if open"),
        ({"verdict": "differs", "where": ["README.md"]}, "expected `here`"),
        ({"verdict": "as in the paper"}, "is nowhere"),
    ],
)
def test_an_incomplete_claim_is_refused(
    page: ModuleType, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        page.Claim(paper="A claim", **fields)


def test_the_drawings_are_of_the_results(figures: ModuleType, tmp_path: Path) -> None:
    for name, (source, _) in figures.FIGURES.items():
        assert figures.digest(source) in (figures.OUT / f"{name}.svg").read_text(), name
    found = json.loads(figures.PREDICTOR.read_text())
    one = figures.rounds(found)
    drawn = [len(ax.collections[1].get_offsets()) for ax in one.axes]
    assert drawn == [len(each["labels"]) for each in found["rounds"]]
    assert [len(each["labels"]) for each in found["rounds"]] == [30] * 5
