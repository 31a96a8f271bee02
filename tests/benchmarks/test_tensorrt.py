"""The TensorRT script where there is no TensorRT; it has never been run with it."""

from __future__ import annotations

import sys

import pytest

from tests.modules import benchmark


def test_without_tensorrt_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(sys, "argv", ["tensorrt", "a.onnx", "--out", "rows.jsonl"])
    with pytest.raises(SystemExit, match=r"TensorRT is not installed; expected .* pip install"):
        benchmark("gpu.tensorrt").main()
