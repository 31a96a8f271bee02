"""`fbnetv3 find`: a plain sentence, JSON that says the same, and one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shell import carried_out


def found(line: str, folder: Path, code: int = 0) -> str:
    done = carried_out(f"fbnetv3 find {line}", folder, {})
    assert done.code == code, done.err
    return done.out if code == 0 else done.err


def test_an_fbnetv3_is_named_where_it_wins_and_another_where_not(tmp_path: Path) -> None:
    text = found("--against efficientnet_b0", tmp_path)
    assert text.startswith("Take fbnetv3_a.meta_in1k at 224 pixels: top-1 79.57 % (published by")
    assert "non-commercial use only; --license commercial leaves" in text
    text = found("--against efficientnet_b0 --license commercial", tmp_path)
    assert text.startswith("Take efficientnet_b0.ra4_e3600_r224_in1k at 224 pixels: top-1 78.57 %")
    assert "meta_in1k" not in text
    assert found("--against fbnetv3_c", tmp_path).startswith("Keep fbnetv3_c.meta_in1k")


def test_json_has_winner_front_and_cost(tmp_path: Path) -> None:
    record = json.loads(found("--max-macs 600 --max-params 8 --json", tmp_path))
    assert record["winner"]["name"] == "efficientnet_b0.ra4_e3600_r224_in1k"
    assert (record["against"], record["cost"]) == (None, "macs")
    assert record["front"][-1] == record["winner"]
    assert all(row["params"] <= 8e6 and row["macs"] <= 6e8 for row in record["front"])


def test_latencies_of_a_file_decide(tmp_path: Path) -> None:
    rows = [
        {
            "network": name,
            "side": 224,
            "backend": "onnxruntime",
            "threads": 1,
            "batch": 1,
            "latency": {"median_ms": ms},
        }
        for name, ms in (("efficientnet_b0", 5.0), ("fbnetv3_a", 6.0), ("repvit_m1_0", 4.0))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = found("--against efficientnet_b0 --latency rows.jsonl", tmp_path)
    assert text.startswith("Take repvit_m1_0.dist_450e_in1k at 224 pixels: top-1 80.43 %")
    assert "4.0 ms" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "give a budget: --against NETWORK, --max-macs or --max-params"),
        ("--against eficientnet_b0", "did you mean 'efficientnet_b0'"),
        ("--max-macs 600 --latency here", "--latency here needs --against"),
        ("--max-macs 600 -o x.jsonl", "--output is for measured latencies; add --latency here"),
        ("--against resnet50 --latency none.jsonl", "no file none.jsonl"),
        ("--against resnet50 --latency here --most 1", "--most is 1; expected at least 2"),
        ("--against resnet50 --latency here --threads 0", "--threads is 0; expected"),
        ("--against resnet50 --latency here -o no/x.jsonl", "no folder no to write x.jsonl to"),
        ("--max-macs 1", "no network with published figures is within the limits"),
        ("--max-macs lots", "limit is 'lots'; expected millions"),
    ],
)
def test_a_mistake_is_one_clear_error(tmp_path: Path, line: str, message: str) -> None:
    text = found(line, tmp_path, 2)
    assert text.startswith("error: ")
    assert message in text
    assert text.count("\n") == 1
