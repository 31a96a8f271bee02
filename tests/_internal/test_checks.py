"""Arguments that should be whole numbers."""

import numpy as np
import pytest

from fbnetv3._internal.checks import whole_number


@pytest.mark.parametrize("value", [12, 12.0, np.int64(12), np.float64(12)])
def test_whole_numbers_of_any_kind_are_ints(value: object) -> None:
    found = whole_number("trainings", value, 1)
    assert (found, type(found)) == (12, int)


@pytest.mark.parametrize("value", [0, 12.5, "12", True, None, float("nan"), [12]])
def test_what_is_no_whole_number_is_refused_with_the_least_one(value: object) -> None:
    with pytest.raises(ValueError, match=r"^trainings is .*; expected a whole number from 1$"):
        whole_number("trainings", value, 1)
