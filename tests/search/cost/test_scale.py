"""Compound scaling against the released networks."""

import dataclasses

import pytest

from fbnetv3.arch.arch import Arch
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.search.cost.scale import RELEASED, Scaling, scale, scale_to


def cells(arch: Arch) -> dict[str, tuple[int, int]]:
    rows = {row.name: (row.channels, row.repeats) for row in arch.rows}
    return {"stem": (arch.stem_channels, 1), **rows}


@pytest.mark.parametrize("model", sorted(RELEASED))
def test_released_networks_are_scalings_of_others(model: str) -> None:
    base, scaling = RELEASED[model]
    assert scale(ARCHS[base], scaling) == ARCHS[model].same_padding()


def test_only_g_was_adjusted_by_hand_and_only_in_four_cells() -> None:
    assert not RELEASED["fbnetv3_a"][1].overrides
    assert not RELEASED["fbnetv3_f"][1].overrides
    base, scaling = RELEASED["fbnetv3_g"]
    ruled = cells(scale(ARCHS[base], dataclasses.replace(scaling, overrides={})))
    released = cells(ARCHS["fbnetv3_g"])
    assert {
        name: (ruled[name], released[name]) for name in ruled if ruled[name] != released[name]
    } == {
        "stem": ((24, 1), (32, 1)),
        "MB2": ((32, 5), (40, 5)),
        "MB4": ((96, 5), (104, 5)),
        "MB7": ((288, 1), (288, 2)),
    }


@pytest.mark.parametrize("width", [1.137, 1.15, 1.156])
def test_a_range_of_widths_gives_f(width: float) -> None:
    base, scaling = RELEASED["fbnetv3_f"]
    made = scale(ARCHS[base], dataclasses.replace(scaling, width=width))
    assert made == ARCHS["fbnetv3_f"].same_padding()
    rounded = scale(ARCHS[base], dataclasses.replace(scaling, width=width, raw_widths={}))
    assert rounded != ARCHS["fbnetv3_f"].same_padding()


def test_no_scaling_changes_nothing() -> None:
    for arch in ARCHS.values():
        assert scale(arch, Scaling()) == arch


def test_widths_of_unscaled_networks_are_not_rounded() -> None:
    assert scale(ARCHS["fbnetv3_a0"], Scaling(depth=2)).stem_channels == 12


def test_a_smaller_classifier_leaves_more_for_the_network() -> None:
    base = ARCHS["fbnetv3_e"]
    few, _, counts = scale_to(base, 4e8, num_classes=10)
    assert counts == count(few, num_classes=10)
    assert counts.macs_paper <= 4e8
    many, _, _ = scale_to(base, 4e8)
    assert count(few).params >= count(many).params


@pytest.mark.parametrize("macs", [2e8, 4e8, 1e9, 3e9])
def test_scaling_to_a_cost_stays_below_and_comes_near(macs: float) -> None:
    arch, scaling, counts = scale_to(ARCHS["fbnetv3_e"], macs)
    assert counts == count(arch)
    assert arch == scale(ARCHS["fbnetv3_e"], scaling)
    assert 0.85 * macs < counts.macs_paper <= macs


def test_shares_say_what_is_scaled() -> None:
    base = ARCHS["fbnetv3_e"]
    wide, _, _ = scale_to(base, 1.5e9, shares=(1, 0, 0))
    deep, _, _ = scale_to(base, 1.5e9, shares=(0, 1, 0))
    large, _, _ = scale_to(base, 1.5e9, shares=(0, 0, 1))
    assert [a.resolution for a in (wide, deep)] == [base.resolution] * 2
    assert [row.repeats for row in wide.rows] == [row.repeats for row in base.rows]
    assert [row.channels for row in deep.rows] == [row.channels for row in base.rows]
    assert large.same_padding().rows == base.same_padding().rows
    assert large.resolution > base.resolution


def test_impossible_scalings_are_refused() -> None:
    base = ARCHS["fbnetv3_e"]
    with pytest.raises(ValueError, match="width is 0"):
        Scaling(width=0)
    with pytest.raises(ValueError, match="no row 'MB9'"):
        scale(base, Scaling(overrides={"MB9": {"channels": 8}}))
    with pytest.raises(ValueError, match="stem has no cell 'kernel' to set; expected one of c"):
        scale(base, Scaling(overrides={"stem": {"kernel": 5}}))
    with pytest.raises(ValueError, match="MB2 has no cell 'width' to set; expected one of act"):
        scale(base, Scaling(overrides={"MB2": {"width": 8}}))
    with pytest.raises(ValueError, match="macs is -1"):
        scale_to(base, -1.0)
    with pytest.raises(ValueError, match="add up to 1"):
        scale_to(base, 1e9, shares=(1, 1, 1))
    with pytest.raises(ValueError, match="or fewer"):
        scale_to(base, 1e3)
