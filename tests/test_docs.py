"""The documentation: its tutorials run, its reference is complete, its links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm

import fbnetv3
from fbnetv3 import search
from fbnetv3._internal.optional import INSTALLS
from tests.paths import ROOT

from .modules import module_of_file
from .pages import NOT_RUN, VARY, agrees, blocks, missing_line, run
from .shell import check_words

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
README = ROOT / "README.md"
# Beside the tests of a wheel there is no folder `search/`.
OTHERS = [README, *ROOT.glob("search/README.md"), ROOT / "benchmarks" / "data" / "README.md"]
START = sorted((DOCS / "start").glob("*.md"))
RUN = [*TUTORIALS, *START, README]
SITE: dict[str, Any] = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
REFERENCE = "\n".join(page.read_text() for page in sorted((DOCS / "reference").glob("*.md")))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_does_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("FBNETV3_HOME", str(tmp_path / "cache")),
        ("FBNETV3_OFFLINE", "1"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        monkeypatch.setenv(name, value)
    if page == README:
        package = Path(fbnetv3.__file__).parent
        Path("fbnetv3_zoo").symlink_to(package)
        shutil.copytree(package / "data" / "photos", "photos")
        shutil.copy("photos/chelsea.jpg", "photo.jpg")
    run(page, tmp_path)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    found = blocks(page)
    assert page.read_text().count("```") == 2 * len(found)
    for block in found:
        assert block.kind in ("sh", "python", "text"), block.where
        if block.mark.startswith(NOT_RUN):
            assert len(block.mark.removeprefix(NOT_RUN).split()) >= 3, block.where
        elif page not in RUN:
            assert not block.is_run, f"{block.where}: nobody runs this page"
        else:
            assert block.mark in ("", VARY), f"{block.where}: {block.mark!r}"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_that_is_not_run_exists(page: Path) -> None:
    for block in blocks(page):
        if block.kind != "sh" or block.is_run:
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            command = line.rpartition("uv run ")[2]
            if command.startswith(("fbnetv3", "torchrun")):
                check_words(command)


def test_every_tutorial_runs_both_kinds_and_shows_output() -> None:
    assert len(TUTORIALS) >= 5
    for page in TUTORIALS:
        found = blocks(page)
        assert sum(block.is_run for block in found) >= 4, page
        assert sum(block.kind == "text" for block in found) >= 3, page
        for before, block in itertools.pairwise(found):
            assert block.kind != "text" or before.is_run, block.where


@pytest.mark.parametrize(
    ("shown", "printed", "vary", "right"),
    [
        ("cat 80.8 %", "cat 80.7 %", False, True),
        ("cat 80.8 %", "dog 80.8 %", False, False),
        ("cat 80.8 %", "cat 60.8 %", False, False),
        ("cat 80.8 %", "cat 60.8 %", True, True),
        ("cat 80.8 %", "cat 80.8 %, dog 6.0 %", True, False),
        ("1,000  images", "1,000 images", False, True),
    ],
)
def test_shown_output_is_compared_by_words_and_numbers(
    shown: str, printed: str, vary: bool, right: bool
) -> None:
    assert agrees(shown, printed, vary=vary) == right
    assert (missing_line([shown], ["before", printed], vary=vary) is None) == right


DIRECTIVES = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("package", [fbnetv3, search])
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    public = {f"{package.__name__}.{name}" for name in package.__all__}
    assert public <= set(DIRECTIVES)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "search" / "README.md"])
def test_a_page_names_no_deep_path_of_a_public_name(page: Path) -> None:
    text = page.read_text()
    for package in (fbnetv3, search):
        for name, home in package._HOMES.items():
            assert not re.search(rf"from {package.__name__}.{home} import .*\b{name}\b", text)


def is_module(path: str) -> bool:
    """Returns whether a dotted path is a module's."""
    return importlib.util.find_spec(path) is not None


def test_the_reference_names_only_what_exists_and_each_thing_once() -> None:
    assert sorted(DIRECTIVES) == sorted(set(DIRECTIVES))
    for path in DIRECTIVES:
        module, _, name = path.rpartition(".")
        if "detectron2" in path:  # cannot be imported without it
            found = importlib.util.find_spec(module)
            assert found is not None
            assert found.origin is not None
            assert re.search(rf"^(?:def|class) {name}\b", Path(found.origin).read_text(), re.M)
        else:
            assert hasattr(importlib.import_module(module), name) or is_module(path), path


def test_the_tutorial_installs_what_the_error_names() -> None:
    packages, _, _ = INSTALLS["detectron2"].partition(",")
    tutorial = (DOCS / "tutorials" / "detection.md").read_text()
    assert f"\npip install {packages}\n" in tutorial
    # Detectron2's trainer writes to it after its first steps.
    assert "tensorboard" in packages.split()


def parts() -> Any:
    """Returns the module with the pages' macros."""
    return module_of_file(DOCS / "parts.py")


@pytest.mark.parametrize("program", ["fbnetv3", "fbnetv3-search"])
def test_every_command_and_option_is_in_the_reference(program: str) -> None:
    assert f'{{{{ commands("{program}") }}}}' in (DOCS / "reference" / "cli.md").read_text()
    made = parts()
    text = made.commands(program)
    group = made.program(program)
    assert len(group.commands) >= 10
    for name, command in made.named_commands(group).items():
        _, found, section = text.partition(f"### {program} {name}\n")
        section = section.partition("\n### ")[0]
        assert found, name
        assert f"{program} {name}" in section.partition("```sh")[2]
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}`" in section or option in ("-h", "--help"), f"{name} {option}"


def test_a_default_of_nought_is_shown() -> None:
    assert "| `--seed` | int | `0` |" in parts().commands("fbnetv3-search")


def test_every_result_has_its_conditions_on_the_page() -> None:
    table = parts().conditions()
    results = ROOT / "benchmarks" / "results"
    paths = [p.relative_to(results) for p in results.rglob("*.json*")]
    assert len(paths) >= 20
    assert [path for path in paths if f"`{path}`" not in table] == []


def test_the_table_of_benchmarks_names_every_script_and_every_result() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)[^|]*\|[^|]*\|([^|]*)\|",
        parts().section("benchmarks/README.md", "## Scripts"),
        re.M,
    )
    scripts = {
        ".".join(path.relative_to(ROOT / "benchmarks").with_suffix("").parts).removesuffix(
            ".__main__"
        )
        for path in (ROOT / "benchmarks").rglob("*.py")
        if "__main__" in path.read_text()
    }
    assert {name for name, _ in rows} == scripts
    results = ROOT / "benchmarks" / "results"
    patterns = [pattern for _, cell in rows for pattern in re.findall(r"`([^`]+)`", cell)]
    found = [set(results.glob(pattern)) for pattern in patterns]
    assert all(found), patterns
    # The table's last lines say of these where they are explained.
    others = ("coverage.json", "training/*.log.json", "training/*.recipe.json", "*/README.md")
    known = set().union(*found, *map(results.glob, others))
    assert [path for path in results.rglob("*.*") if path not in known] == []


def nav_pages(entries: Sequence[Any]) -> Iterator[str]:
    """Yields the pages that a navigation names, at any depth."""
    for entry in entries:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from nav_pages(value)


def test_the_navigation_names_every_page_once() -> None:
    assert sorted(nav_pages(SITE["nav"])) == sorted(str(p.relative_to(DOCS)) for p in PAGES)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_relative_links_lead_to_pages_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link} leads to no heading"


@pytest.mark.needs("zensical")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    # A copy, so that the site of the tree is left as it is.
    for name in ("docs", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("zensical.toml", "MODEL_CARD.md", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".typings" / "fbnetv3", tmp_path / ".typings" / "fbnetv3")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    made = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*.html")}
    assert {str(page.relative_to(DOCS).with_suffix(".html")) for page in PAGES} <= made


def test_the_papers_other_teacher_has_the_name_that_the_guide_gives() -> None:
    guide = (DOCS / "imagenet.md").read_text()
    names = set(re.findall(r"timm:(regnety_320\.\w+)", guide))
    assert names
    assert names <= set(timm.list_pretrained("regnety_320*"))
