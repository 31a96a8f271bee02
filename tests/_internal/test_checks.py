"""Arguments and fields that are not what is expected are named, with their value."""

import numpy as np
import pytest

from fbnetv3._internal.checks import check_choice, check_number, check_whole, whole_number


@pytest.mark.parametrize("value", [12, 12.0, np.int64(12), np.float64(12)])
def test_whole_numbers_of_any_kind_are_ints(value: object) -> None:
    found = whole_number("trainings", value, 1)
    assert (found, type(found)) == (12, int)


@pytest.mark.parametrize("value", [0, 12.5, "12", True, None, float("nan"), [12]])
def test_what_is_no_whole_number_is_refused_with_the_least_one(value: object) -> None:
    with pytest.raises(ValueError, match=r"^trainings is .*; expected a whole number from 1$"):
        whole_number("trainings", value, 1)


@pytest.mark.parametrize("value", [0, 9, 1.0, "2", True, None])
def test_a_field_that_is_no_whole_number_of_a_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^size is .*; expected a whole number from 1 to 8$"):
        check_whole("size", value, 1, 8)
    check_whole("size", 8, 1, 8)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_a_field_that_is_no_number_of_a_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^rate is .*; expected a number from 0 to 1$"):
        check_number("rate", value, 0, 1)
    check_number("rate", 1, 0, 1)


def test_a_word_that_is_no_choice_is_refused_with_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"^act is \['relu'\]; expected one of relu, gelu$"):
        check_choice("act", ["relu"], ("relu", "gelu"))
    check_choice("act", "gelu", ("relu", "gelu"))
