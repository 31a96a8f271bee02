"""Tables that several test files share: a tiny one, and any valid one for property tests."""

from __future__ import annotations

import dataclasses

from hypothesis import assume
from hypothesis import strategies as st

from fbnetv3.arch.arch import Arch, Row

# A row of every kind: without expansion, with stride, with squeeze-and-excite, with repeats.
TINY = Arch(
    resolution=32,
    stem_channels=8,
    rows=(
        Row("MB1", (3, 3), (1, 1), 8, 1, 1, False),
        Row("MB2", (5, 3), (4, 2), 16, 2, 2, False),
        Row("MB3", (3, 5), (4, 3), 24, 2, 2, True),
        Row("MB4", (3, 3), (3, 3), 24, 1, 1, True, act="relu"),
        Row("MB5", (3, 5), (4, 4), 32, 2, 2, True),
    ),
    head_expansion=3,
    head_channels=48,
)
_HIGHEST = 4096  # the largest resolution that an Arch may have, and so valid for any rows


@st.composite
def rows(draw: st.DrawFn, number: int) -> Row:
    """Returns any row, narrow enough for a quick run."""
    kernel = draw(st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5])))
    stride = draw(st.sampled_from([1, 2])) if kernel[0] > 1 else 1
    expansion = st.floats(0.5, 4)
    # Expanded widths are multiples of 8.
    groups = st.sampled_from([1, 2, 4, 8])
    return Row(
        f"MB{number}",
        kernel,
        draw(st.tuples(expansion, expansion)),
        draw(st.integers(4, 24)),
        draw(st.integers(1, 3)),
        stride,
        draw(st.booleans()),
        padding=draw(st.none() | st.integers(0, kernel[0] // 2)) if stride == 2 else None,
        groups=draw(st.none() | st.tuples(groups, groups)),
        act=draw(st.sampled_from(["hard_swish", "relu"])),
    )


@st.composite
def archs(draw: st.DrawFn) -> Arch:
    """Returns any network whose resolution is at least 32 and little above the least it takes."""
    number = draw(st.integers(1, 4))
    arch = Arch(
        resolution=_HIGHEST,
        stem_channels=draw(st.integers(4, 24)),
        rows=tuple(draw(rows(n + 1)) for n in range(number)),
        head_expansion=draw(st.floats(1, 6)),
        head_channels=draw(st.integers(8, 64)),
        stem_act=draw(st.sampled_from(["hard_swish", "relu"])),
    )
    assume(arch.min_side <= 96)
    resolution = max(32, arch.min_side) + draw(st.integers(0, 9))
    return dataclasses.replace(arch, resolution=resolution)
