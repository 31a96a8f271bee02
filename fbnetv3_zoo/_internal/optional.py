"""Libraries that only some functions need, and the command that installs each."""

from __future__ import annotations

import importlib

# Library -> what pip installs for it; an extra brings a version that is known to fit.
INSTALLS = {
    "detectron2": 'cloudpickle hydra-core iopath omegaconf pycocotools "setuptools<82", then put a '
    "checkout of its repository, which has no release, on PYTHONPATH",
    "executorch": '"fbnetv3-zoo[executorch]"',
    "matplotlib": "matplotlib",
    "nncf": '"fbnetv3-zoo[openvino]"',
    "onnxruntime": "onnxruntime",
    "openvino": '"fbnetv3-zoo[openvino]"',
    "optuna": '"fbnetv3-zoo[optuna]"',
    "pyarrow": "pyarrow",
    "pycocotools": '"fbnetv3-zoo[detection]"',
    "ray": '"fbnetv3-zoo[ray]"',
}


def missing(library: str, error: ImportError) -> ImportError:
    """Returns the error to raise where a library cannot be imported."""
    what = INSTALLS.get(library, library)
    return ImportError(
        f"this needs {library}, which cannot be imported ({error}): pip install {what}"
    )


def need(library: str) -> None:
    """Imports a library, so that its absence shows before any work is done.

    Raises:
        ImportError: it is not installed, or broken.
    """
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise missing(library, error) from error
