"""Each notebook of the documentation runs from its first cell to its last."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from .paths import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_is_a_notebook_for_every_task() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "search_a_network",
        "ship_a_classifier",
        "swap_a_detector_backbone",
    ]


@pytest.mark.slow
@pytest.mark.needs("nbclient")
@pytest.mark.needs("ipykernel")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = (importlib.import_module(name) for name in ("nbclient", "nbformat"))
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join((bin_folder, os.environ["PATH"])))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(content, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in content.cells for out in cell.get("outputs", ())]
    assert outputs
    # A shell line of a notebook fails without an exception.
    printed = "".join(out.get("text", "") for out in outputs)
    assert "error" not in printed.lower(), printed
