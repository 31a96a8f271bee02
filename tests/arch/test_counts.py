"""The closed form meets the published figures to the last digit."""

import pytest

from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from tests.published import FVCORE, PARAMETERS, PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_met_to_the_last_digit(name: str) -> None:
    counts = count(ARCHS[name])
    macs, weights = PUBLISHED[name]
    assert counts.macs_paper == round(macs * 1e6)
    assert counts.weight_params == round(weights * 1e6)
    assert counts.params == PARAMETERS[name]
    assert counts.macs_fvcore == FVCORE[name] - ARCHS[name].head_channels


@pytest.mark.parametrize("resolution", [1, 8])
def test_an_input_that_leaves_no_map_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution is {resolution}; expected 49 pixels"):
        count(ARCHS["fbnetv3_a"], resolution)
