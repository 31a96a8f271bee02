"""Mutations of bytes and of JSON values: equal draws, equal results.

The edge of this file: it knows no reader and no format beyond JSON's syntax.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

_EDGES: tuple[int, ...] = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
)
_EDGES += (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63)
_EDGES += ((1 << 64) - 1,)
_MAX_BYTES = 1 << 20

# JSON texts that no Python value is written as.
_RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0.0",
    "1" * 400,
    "9" * 5000,
    '"\\ud800"',
    '"\\u001b[2J"',
    '"\\u0000"',
    "nul",
    "{,}",
    "'x'",
    "01",
    "\x00",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 8, 64, 4096, 65537, 1 << 31, 1 << 63, -(1 << 63)),
    *(10**30, 0.5, 1.5, -0.5, 1e-9, 1e308, 5e-324, 3.0, "", " ", "3", "x" * 5000, "\u202e\u00e9"),
    *("hard_swish", "$x", "name", [], {}, [[]], [1, 2], [1, 2, 3], {"": 0}, {"rows": []}, [None]),
)


def mutate_bytes(draw: Random, content: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """Returns `content` with one to six changes; `tokens` are pieces that mean something in it."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        _change(draw, data, content, tokens)
    return bytes(data[:_MAX_BYTES])


def _change(draw: Random, data: bytearray, other: bytes, tokens: Sequence[bytes]) -> None:
    place = draw.randrange(len(data) + 1)
    # Lengths and kinds stand at the start of most formats.
    place = min(place, draw.choice((len(data), len(data), 64, 16)))
    span = draw.choice((1, 1, 2, 4, 8, 32, 200))
    match draw.randrange(9):
        case 0 if data:
            data[place % len(data)] ^= 1 << draw.randrange(8)
        case 1 if data:
            data[place % len(data)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        case 2:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(_EDGES) % (1 << 8 * width)
            data[place : place + width] = number.to_bytes(width, draw.choice(("little", "big")))
        case 3:
            del data[place : place + span]
        case 4:
            data[place:place] = data[place : place + span] * draw.choice((1, 2, 50))
        case 5 if tokens:
            token = draw.choice(tokens)
            data[place : place + draw.choice((0, len(token)))] = token
        case 6:
            del data[place:]
        case 7:
            source = draw.randrange(len(other) + 1)
            data[place : place + span] = other[source : source + span]
        case _:
            data[place : place + span] = draw.randbytes(min(span, 32))


def mutate_json(draw: Random, value: Any) -> str:
    """Returns a JSON text near `value`: wrong types, missing, unknown, doubled and raw entries."""
    root = [copy.deepcopy(value)]
    raw: list[str] = []
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 2, 4))):
        _change_node(draw, root, raw)
    text = json.dumps(root[0], indent=draw.choice((None, 2)))
    for number, piece in enumerate(raw):
        text = text.replace(f'"<raw {number}>"', piece)
    if draw.random() < 0.05:
        text = _double_key(draw, text)
    if draw.random() < 0.04:
        changed = mutate_bytes(draw, text.encode("utf-8", "surrogatepass"), (b"{", b"[", b'"'))
        text = changed.decode("latin-1")
    return text


def _change_node(draw: Random, root: list[Any], raw: list[str]) -> None:
    places = list(_places(root))
    parent, key = draw.choice(places)
    old = parent[key]
    match draw.randrange(10):
        case 0 | 1 | 2:
            parent[key] = copy.deepcopy(draw.choice(_VALUES))
        case 3:
            parent[key] = f"<raw {len(raw)}>"
            raw.append(_raw(draw))
        case 4 if isinstance(old, int | float):
            parent[key] = draw.choice((old + 1, old - 1, -old, old * 2, old / 2, old * 1000))
        case 5 if parent is not root:
            del parent[key]
        case 6 if isinstance(parent, dict):
            new = draw.choice(("", "Schema", f"{key} ", "extra", "x" * 3000, "\u001b[1m", "self"))
            parent[new] = parent.pop(key) if draw.random() < 0.5 else copy.deepcopy(old)
        case 7 if isinstance(old, list):
            parent[key] = (old * draw.choice((2, 3, 40)))[:2000]
        case 8:
            there, name = draw.choice(places)
            parent[key] = copy.deepcopy(there[name])
        case _:
            parent[key] = draw.choice(([old], {"value": old}, str(old), [old, old]))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    entries: Any = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in entries:
        yield node, key
        if isinstance(value, list | dict):
            yield from _places(value)


def _raw(draw: Random) -> str:
    if draw.random() < 0.2:
        # Around Python's limit of recursion, where reading still works and printing may not.
        depth = draw.choice((5, 100, draw.randrange(700, 1100), 20_000))
        opened, closed = draw.choice((("[", "]"), ('{"a":', "}")))
        return opened * depth + "0" + closed * depth
    return draw.choice(_RAW)


def _double_key(draw: Random, text: str) -> str:
    braces = [place for place, letter in enumerate(text) if letter == "{"]
    quoted = [piece for piece in text.split('"')[1::2] if piece.isidentifier()]
    if not braces or not quoted:
        return text
    place = draw.choice(braces) + 1
    entry = f'"{draw.choice(quoted)}": {json.dumps(draw.choice(_VALUES))}, '
    return text[:place] + entry + text[place:]
