"""What is installed and whether its parts fit each other, and how to fix them where they do not."""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import os
import platform
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from fbnetv3._version import __version__
from fbnetv3.hub.cache import cache_dir, is_offline
from fbnetv3.hub.weights import MIRROR, OFFICIAL_HOST

_REQUIRED = (
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxruntime",
    "huggingface-hub",
    "fvcore",
    "safetensors",
    "numpy",
    "scipy",
    "pillow",
)
# Seconds after which a source of weights counts as not reachable.
_ANSWER_S = 4.0
_MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        found: what it is.
        fix: what to do where it is not, else "".
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def diagnose(*, network: bool = False) -> list[Check]:
    """Returns a check for each required package, then for how they work together.

    Args:
        network: also ask the sources of weights whether they can be reached.
    """
    checks = [
        Check("fbnetv3", True, __version__),
        Check("python", True, f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name) for name in _REQUIRED),
        _import("torch", "install torch from the same index as torchvision"),
        _torchvision(),
        _import("timm", "timm imports torchvision: fix torchvision first"),
        _providers(),
        _cache(),
        Check("offline", True, "yes" if is_offline() else "no"),
        Check("license policy", True, os.environ.get("FBNETV3_LICENSE") or "none"),
        _threads(),
        *(_sources() if network else ()),
    ]
    return checks


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _import(name: str, fix: str) -> Check:
    try:
        importlib.import_module(name)
    except Exception as error:  # a build mismatch raises RuntimeError, others what they like
        return Check(f"import {name}", False, f"{type(error).__name__}: {error}", fix)
    return Check(f"import {name}", True, "works")


def _torchvision() -> Check:
    check = _import("torchvision", "")
    if check.ok:
        return check
    try:
        import torch

        build = torch.__version__
        tag = build.partition("+")[2] or "default"
    except Exception as error:  # torch itself is broken, which its own check reports
        return Check(check.name, False, check.found, f"fix torch first: {error}")
    fix = (
        f"torch is {build}; torchvision was built for another torch. Install both in one command "
        f"from one index: pip install --force-reinstall torch torchvision (here the {tag} build)"
    )
    return Check(check.name, False, check.found, fix)


def _providers() -> Check:
    try:
        import onnxruntime

        return Check(
            "onnxruntime providers", True, ", ".join(onnxruntime.get_available_providers())
        )
    except Exception as error:  # reported whatever it is
        return Check("onnxruntime providers", False, str(error), "pip install onnxruntime")


def _cache() -> Check:
    folder = cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    found = f"{folder} ({free / 1e9:.1f} GB free)"
    if not os.access(existing, os.W_OK):
        return Check(
            "cache", False, found, "it is not writable: set FBNETV3_HOME to another folder"
        )
    if free < _MIN_FREE_BYTES:
        return Check("cache", False, found, "free some space, or set FBNETV3_HOME")
    return Check("cache", True, found)


def _sources() -> Iterator[Check]:
    """Yields whether each source of weights answers; what it answers does not matter."""
    proxies = {name: url for name, url in urllib.request.getproxies().items() if name != "no"}
    through = "; through the proxy " + ", ".join(sorted(set(proxies.values()))) if proxies else ""
    for name, url in (
        ("hub", os.environ.get("HF_ENDPOINT") or "https://huggingface.co"),
        ("official weights", os.environ.get(MIRROR) or OFFICIAL_HOST),
        ("timm's release", "https://github.com"),
    ):
        start = time.perf_counter()
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=_ANSWER_S).close()
        except urllib.error.HTTPError:
            pass  # an answer
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            yield Check(
                name,
                False,
                f"{url} does not answer: {str(reason) or type(reason).__name__}{through}",
                "check the network and the proxy (HTTPS_PROXY); HF_ENDPOINT and FBNETV3_MIRROR "
                "name mirrors; embedded weights need no network",
            )
            continue
        took = time.perf_counter() - start
        yield Check(name, True, f"{url} answers after {took:.1f} s{through}")


def _threads() -> Check:
    try:
        import torch

        found = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    except Exception as error:  # torch itself is broken, which its own check reports
        return Check("torch threads", False, str(error), "fix torch first")
    return Check("torch threads", True, found)
