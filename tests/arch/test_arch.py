"""A table of rows is validated where it is made, and survives its JSON."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fbnetv3.arch.arch import Arch, Row, round_channels
from fbnetv3.arch.counts import count
from fbnetv3.arch.tables import ARCHS
from fbnetv3.measure.flop_count import flops
from fbnetv3.models.model import build
from tests.archs import archs

ROW = Row("MB1", (3, 3), (2.0, 2.0), 16, 2, 2, True)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (3, 8),
        (8, 8),
        (12, 16),
        (20, 24),
        (26, 32),
        (27, 32),
        (28, 32),
        (104 // 4, 32),
        (580 // 4, 144),
    ],
)
def test_widths_round_to_eight_and_never_below_95_percent(channels: int, expected: int) -> None:
    assert round_channels(channels) == expected


@pytest.mark.parametrize("name", ARCHS)
def test_published_networks_survive_their_json(name: str) -> None:
    arch = ARCHS[name]
    again = Arch.from_json(arch.to_json())
    assert again == arch
    assert again.sha256 == arch.sha256


def test_identity_ignores_row_names_and_only_those() -> None:
    arch = ARCHS["fbnetv3_a"]
    renamed = dataclasses.replace(arch.rows[0], name="first")
    assert dataclasses.replace(arch, rows=(renamed, *arch.rows[1:])).sha256 == arch.sha256
    assert arch.same_padding().sha256 != arch.sha256
    assert ARCHS["fbnetv3_b"].sha256 != arch.sha256


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archs())
def test_any_valid_network_survives_its_json(arch: Arch) -> None:
    again = Arch.from_json(arch.to_json())
    assert again == arch
    assert again.sha256 == arch.sha256
    assert arch.same_padding().min_side == 1


# For each field of the JSON, values that no network may have.
BAD_FIELDS: dict[str, list[Any]] = {
    "resolution": [7, 4097, 32.0, "32", None, True],
    "stem_channels": [0, 8193, 8.5, "8", None],
    "rows": [[], {}, None, 3],
    "head_expansion": [0, 33, "2", None, float("nan"), float("inf")],
    "head_channels": [0, 65537, 1.5, None],
    "stem_act": ["tanh", None, 1, ["relu"]],
}
BAD_CELLS: dict[str, list[Any]] = {
    "name": ["", None, 5],
    "kernel": [0, 2, 17, 3.0, [3], [4, 3], [3, 3, 3], "3", None],
    "expansion": [0, -1, 33, [1], [None, 1], "1", None, float("nan")],
    "channels": [0, 8193, 8.0, "8", None, True],
    "repeats": [0, 65, 1.0, None],
    "stride": [0, 3, 1.0, None],
    "se": [0, 1, "true", None],
    "padding": [-1, 99, 1.0, "1"],
    "groups": [0, 65, [1], [0, 1], "1", 1.0],
    "act": ["gelu", None, 2],
}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archs(), st.data())
def test_any_network_with_one_bad_field_is_refused_by_its_name(
    arch: Arch, data: st.DataObject
) -> None:
    fields = arch.to_dict()
    if data.draw(st.booleans()):
        row = data.draw(st.sampled_from(fields["rows"]))
        cell = data.draw(st.sampled_from(sorted(BAD_CELLS)))
        row[cell] = data.draw(st.sampled_from(BAD_CELLS[cell]))
        message = rf"\b{cell} is "
    else:
        field = data.draw(st.sampled_from(sorted(BAD_FIELDS)))
        fields[field] = data.draw(st.sampled_from(BAD_FIELDS[field]))
        message = rf"^{field} is "
    with pytest.raises(ValueError, match=message):
        Arch.from_dict(fields)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archs(), st.data())
def test_any_network_with_a_field_too_few_or_too_many_is_refused_by_its_name(
    arch: Arch, data: st.DataObject
) -> None:
    fields = arch.to_dict()
    part = data.draw(st.sampled_from([fields, *fields["rows"]]))
    needed = [key for key in part if key not in ("schema", "padding", "groups", "act", "stem_act")]
    lacking = data.draw(st.sampled_from(sorted(needed)))
    value = part.pop(lacking)
    with pytest.raises(ValueError, match=rf"lacks field '{lacking}'|^rows is None"):
        Arch.from_dict(fields)
    part |= {lacking: value, "width": 1}
    with pytest.raises(ValueError, match="unknown field 'width'; known: "):
        Arch.from_dict(fields)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archs(), st.integers(0, 40), st.integers(0, 40))
def test_any_valid_network_builds_and_runs_and_counts(arch: Arch, taller: int, wider: int) -> None:
    least = max(32, arch.min_side)
    height, width = least + taller, least + wider
    model = build(arch, num_classes=7).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, height, width)).shape == (1, 7)
    counted, measured = count(arch, num_classes=7), flops(model)
    assert counted.macs_paper == measured.macs_paper
    assert counted.macs_fvcore == measured.macs_fvcore
    assert counted.params == measured.params


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernel", (4, 3)),
        ("kernel", (3, 17)),
        ("kernel", (3, 3, 3)),
        ("kernel", "3"),
        ("expansion", (0, 1)),
        ("expansion", (float("nan"), 1)),
        ("channels", 0),
        ("channels", 16.0),
        ("channels", True),
        ("repeats", 0),
        ("repeats", None),
        ("stride", 3),
        ("se", 1),
        ("padding", 2),
        ("padding", -1),
        ("groups", (0, 1)),
        ("act", "tanh"),
    ],
)
def test_a_cell_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"MB1: {field} is "):
        dataclasses.replace(ROW, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 4),
        ("resolution", "224"),
        ("stem_channels", 0),
        ("rows", ()),
        ("rows", (ROW, ROW)),
        ("head_expansion", 0),
        ("head_channels", -1),
        ("stem_act", "gelu"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is "):
        dataclasses.replace(ARCHS["fbnetv3_a"], **{field: value})


@pytest.mark.parametrize("name", [name for name in ARCHS if name != "fbnetv3_20g"])
def test_the_smallest_side_is_exact(name: str) -> None:
    arch = ARCHS[name]
    model = build(arch, num_classes=2).eval()
    least = arch.min_side
    with torch.no_grad():
        assert model(torch.zeros(1, 3, least, least)).shape == (1, 2)
        if least > 1:
            with pytest.raises(RuntimeError):
                model(torch.zeros(1, 3, least - 1, least))
    assert (least == 1) == (arch.same_padding() == arch)
    with pytest.raises(ValueError, match="resolution is 8"):
        dataclasses.replace(ARCHS["fbnetv3_a"], resolution=8)


def test_a_row_without_kernel_cannot_stride() -> None:
    with pytest.raises(ValueError, match="MB1: stride is 2; expected 1 where kernel is 1"):
        dataclasses.replace(ROW, kernel=(1, 3))
    assert dataclasses.replace(ROW, kernel=(1, 3), stride=1).stride == 1


def test_groups_must_divide_the_width() -> None:
    row = dataclasses.replace(ROW, groups=(5, 5))
    with pytest.raises(ValueError, match="row MB1: groups"):
        dataclasses.replace(ARCHS["fbnetv3_a"], rows=(row,))


def _without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [], "JSON object"),
        (lambda f: {**f, "schema": "fbnetv3-arch/9"}, "schema is 'fbnetv3-arch/9'"),
        (lambda f: _without(f, "head_channels"), "lacks field 'head_channels'"),
        (lambda f: {**f, "width": 1}, "unknown field 'width'"),
        (lambda f: {**f, "rows": 3}, "rows is 3"),
        (lambda f: {**f, "rows": [7]}, r"rows\[0\] is 7"),
        (lambda f: {**f, "rows": [_without(f["rows"][0], "stride")]}, "lacks field 'stride'"),
        (lambda f: {**f, "rows": [{**f["rows"][0], "bias": 1}]}, "unknown field 'bias'"),
    ],
)
def test_json_that_is_no_architecture_is_refused_by_field(change: Any, message: str) -> None:
    text = json.dumps(change(ARCHS["fbnetv3_a"].to_dict()))
    with pytest.raises(ValueError, match=message):
        Arch.from_json(text)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe\x00"])
def test_text_that_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="valid JSON"):
        Arch.from_json(text)


def test_same_padding_changes_exactly_the_networks_that_have_odd_ones() -> None:
    changed = {name for name, arch in ARCHS.items() if arch.same_padding() != arch}
    assert changed == {f"fbnetv3_{letter}" for letter in "abcef"}


def test_small_image_gives_the_second_strided_layer_stride_one() -> None:
    small = ARCHS["fbnetv3_a"].small_image()
    assert [row.stride for row in small.rows] == [1, 1, 2, 2, 1, 2, 1]
    assert small.resolution == 32


@pytest.mark.parametrize("depth", [50, 900, 960, 980])
def test_a_value_too_deep_to_print_is_still_refused_by_its_field(depth: int) -> None:
    text = json.dumps(ARCHS["fbnetv3_a"].to_dict()).replace("224", "[" * depth + "]" * depth)
    with pytest.raises(ValueError, match=r"expected|not valid JSON") as caught:
        Arch.from_json(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": "x" * 9000},
        {"x" * 9000: 1},
        {"stem_act": "\x1b[2J"},
        {"rows": [{**ARCHS["fbnetv3_a"].to_dict()["rows"][0], "name": "\x1b[2J", "stride": 9}]},
        {"rows": [{**ARCHS["fbnetv3_a"].to_dict()["rows"][0], "name": "x" * 9000}]},
        {"rows": {"a": "x" * 9000}},
    ],
)
def test_a_message_about_a_hostile_file_is_one_short_line(change: dict[str, Any]) -> None:
    text = json.dumps({**ARCHS["fbnetv3_a"].to_dict(), **change})
    with pytest.raises(ValueError, match=r"expected|known") as caught:
        Arch.from_json(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
