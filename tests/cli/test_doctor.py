"""What `doctor` finds when something is wrong, and the fix that it names."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from fbnetv3.cli.doctor import Check, diagnose


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def found() -> dict[str, Check]:
    return {check.name: check for check in diagnose()}


def test_a_sound_installation_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    monkeypatch.setenv("FBNETV3_LICENSE", "commercial")
    checks = found()
    assert [check for check in checks.values() if not check.ok] == []
    assert str(tmp_path) in checks["cache"].found
    assert checks["offline"].found == "yes"
    assert checks["license policy"].found == "commercial"
    assert "CPUExecutionProvider" in checks["onnxruntime providers"].found


def test_a_torchvision_of_another_torch_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> ModuleType:
        if name in ("torchvision", "timm"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fake)
    checks = found()
    assert checks["import torch"].ok
    broken = checks["import torchvision"]
    assert not broken.ok
    assert "nms does not exist" in broken.found
    assert "pip install --force-reinstall torch torchvision" in broken.fix
    assert "fix torchvision first" in checks["import timm"].fix


def test_a_missing_package_is_named_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def fake(name: str) -> str:
        if name == "fvcore":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", fake)
    assert found()["fvcore"] == Check("fvcore", False, "not installed", "pip install fvcore")


def test_a_cache_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable" in found()["cache"].fix
    monkeypatch.undo()
    monkeypatch.setenv("FBNETV3_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    assert "free some space" in found()["cache"].fix
