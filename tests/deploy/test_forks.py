"""Exported files and models in other processes: forked, spawned, and without telemetry."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fbnetv3.deploy.classify import Classifier
from fbnetv3.deploy.export import Exported
from fbnetv3.deploy.onnx_model import OnnxClassifier
from fbnetv3.deploy.runtimes import RUNTIMES
from fbnetv3.images.labels import example_photos

EMBEDDED = "fbnetv3_nano.cifar10"
# Forks a server that has classified, as gunicorn --preload does; the worker ends as Python does.
FORKING = """
import os, signal, sys
from fbnetv3.deploy.classify import Classifier
from fbnetv3.images.labels import example_photos

photos = example_photos() * 4
classifier = Classifier(sys.argv[1], num_threads=2)
expected = [found.label for found in classifier(photos)]
if os.fork() == 0:
    signal.alarm(60)
    if sys.argv[2] == "made again":
        classifier = Classifier(sys.argv[1], num_threads=2)
    sys.exit(0 if [found.label for found in classifier(photos)] == expected else 3)
status = os.waitstatus_to_exitcode(os.wait()[1])
sys.exit(status if [found.label for found in classifier(photos)] == expected else 4)
"""


def fork_a_server(model: str | Path, classifier: str) -> int:
    """Returns the exit code of the worker: negative for the signal that ended it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", FORKING, str(model), classifier]
    return subprocess.run(command, env=environment, timeout=150, check=False).returncode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("classifier", ["inherited", "made again"])
@pytest.mark.parametrize("model", ["torch", "onnxruntime"])
def test_a_worker_forked_from_a_server_that_has_classified_answers_and_ends(
    small_export: Exported, model: str, classifier: str
) -> None:
    assert fork_a_server(EMBEDDED if model == "torch" else small_export.path, classifier) == 0


@pytest.mark.needs("openvino")
def test_a_worker_forked_from_a_server_with_an_openvino_file_answers_and_ends(
    small_export: Exported, tmp_path: Path
) -> None:
    RUNTIMES["openvino"].file.convert(small_export.path, tmp_path / "small.xml")
    assert fork_a_server(tmp_path / "small.xml", "inherited") == 0


def test_an_onnx_classifier_goes_to_the_processes_of_a_pool(small_export: Exported) -> None:
    classifier = OnnxClassifier(small_export.path, num_threads=1, top_k=3, batch_size=2)
    photos = example_photos()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        found = list(pool.map(Classifier.__call__, [classifier] * len(photos), photos))
    assert found == [classifier(photo) for photo in photos]
    assert all(len(prediction.labels) == 3 for prediction in found)


def test_a_pickled_classifier_is_a_path_and_options(
    small_export: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_export.path.parent)
    stored = pickle.dumps(OnnxClassifier(small_export.path.name, num_threads=1, top_k=2))
    assert len(stored) < small_export.num_bytes / 100
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(stored)
    assert isinstance(again, OnnxClassifier)
    assert again.top_k == 2
    assert again.artefact == OnnxClassifier(small_export.path).artefact
    backend: Any = again.backend
    options = backend.session.session.get_session_options()
    assert options.intra_op_num_threads == 1


def test_onnxruntime_writes_nothing_to_the_home_directory(
    small_export: Exported, tmp_path: Path
) -> None:
    code = "import sys; from fbnetv3 import OnnxClassifier; OnnxClassifier(sys.argv[1])"
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    environment |= {"HOME": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", code, str(small_export.path)]
    subprocess.run(command, env=environment, timeout=100, check=True)
    assert list(tmp_path.iterdir()) == []
