"""Every network equals the golden list, block by block."""

import json
from typing import Any

import pytest

from fbnetv3.arch.tables import ARCHS
from tests.paths import GOLDEN as FOLDER

GOLDEN: dict[str, Any] = json.loads((FOLDER / "arch.json").read_text())
OFFICIAL = {f"fbnetv3_{key.removeprefix('FBNetV3_').lower()}": key for key in GOLDEN if "_" in key}


def test_all_nine_official_networks_are_in_the_table() -> None:
    assert len(OFFICIAL) == 9
    assert set(OFFICIAL) <= set(ARCHS)


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_block_equals_the_golden_list(name: str) -> None:
    arch, golden = ARCHS[name], GOLDEN[OFFICIAL[name]]
    blocks = [
        [
            b.in_channels,
            b.mid_channels,
            b.out_channels,
            b.kernel,
            b.stride,
            b.padding,
            b.groups,
            int(b.has_expand),
            b.se_channels,
            int(b.has_residual),
        ]
        for b in arch.blocks()
    ]
    assert blocks == [row[1:] for row in golden["blocks"]]
    assert arch.resolution == golden["input"]
    assert [3, arch.stem_channels, 3, 2, 1] == golden["stem"]
    assert arch.head_mid_channels == golden["head"]["mid"]
    assert arch.head_channels == golden["head"]["features"]
