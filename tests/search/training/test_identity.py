"""Which part of another run's identity is named."""

from pathlib import Path
from typing import Any

import pytest

from fbnetv3.search.training.identity import check_equal


@pytest.mark.parametrize(
    ("name", "theirs", "mine", "said"),
    [
        ("num_images", 5, 6, "its num_images are 5, here 6;"),
        ("classes", "ab12", "cd34", "its classes are different;"),
        ("detector", {"size": 1, "arch": [1]}, {"size": 2, "arch": [2]}, "size 1, here 2, arch;"),
        ("recipe", {"lr": 1.0}, {"lr": 1.0, "wd": 0.1}, "its recipe is different: wd None, here"),
    ],
)
def test_what_differs_is_named_with_both_values(
    name: str, theirs: Any, mine: Any, said: str
) -> None:
    check_equal(Path("run"), name, theirs, theirs, digests=("classes", "arch"))
    with pytest.raises(ValueError, match="in run is of another run: its ") as caught:
        check_equal(Path("run"), name, theirs, mine, digests=("classes", "arch"))
    assert said in str(caught.value)
