"""The plan of a search at ImageNet scale: the page shows what the script prints."""

import argparse
import re

import pytest

from fbnetv3.search.nars.config import SearchConfig
from fbnetv3.search.nars.paper import JOINT
from tests.modules import benchmark
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "imagenet.md").read_text()


def test_the_page_has_the_scripts_plan(capsys: pytest.CaptureFixture[str]) -> None:
    study = benchmark("studies.imagenet_scale")
    study.show_plan(
        argparse.Namespace(images_per_second=1825.0, network="fbnetv3_b", dollars_per_hour=2.0)
    )
    rows = [
        line for line in capsys.readouterr().out.splitlines() if re.search(r"\| [\d,]+ \|", line)
    ]
    assert len(rows) == 6
    assert [row for row in rows if row not in PAGE] == []


def test_the_page_names_the_limits_of_the_preset() -> None:
    limits = [limit["macs_paper"][1] / 1e6 for limit in SearchConfig(**JOINT).limits]
    assert limits == [450, 550, 650, 750]
    assert "450, 550, 650 and 750 M MACs" in PAGE
    assert "--preset paper" in PAGE
