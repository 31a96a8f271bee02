"""What users do wrong with either program: one line, the right exit code, never a traceback.

`test_cli`, `test_cli_deploy` and `search/test_search_cli` have the mistakes that are about names
and the library's own numbers; here are files, folders, combinations, closed pipes and interrupts.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fbnetv3
from fbnetv3.cli import group as cli_group
from fbnetv3.search.space.gene import Gene
from fbnetv3.search.space.space import Space
from tests.shell import APPS

PHOTO = Path(fbnetv3.__file__).parent / "data" / "photos" / "chelsea.jpg"
SPACE = Space("toy", tuple(Gene(f"g{n}", tuple(range(4)), kind="ordered") for n in range(6)))
OBJECTIVES = {
    "good.py": "class make:\n    def evaluate(self, genes, *, seed, epochs):\n"
    "        yield from [50 + sum(genes)] * epochs\n",
    "slow.py": "import time\nclass make:\n    def evaluate(self, genes, *, seed, epochs):\n"
    "        time.sleep(600)\n        yield 1.0\n",
    "undefined.py": "undefined_name\n",
    "raising.py": "def make(): raise RuntimeError('no data')\n",
    "number.py": "def make(): return 3\n",
    "needing.py": "import no_such_library\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a user may hold that is of no use."""
    folder = tmp_path_factory.mktemp("mistakes")
    for name, text in {
        "file": "x",
        "text.jpg": "this is no photo",
        "text.onnx": "no network",
        "broken.json": "{",
        "list.json": "[1, 2]",
        "other.json": '{"a": 1}',
        "short.csv": "g0,g1\n1\n",
        "bare.csv": "g0,g1\n1,2\n",
        "cut.csv": "g0,g1,g2,g3,g4,g5,label\n0,0,0,0,0,0\n",
        "outside.csv": "g0,g1,g2,g3,g4,g5,label\n9,0,0,0,0,0,61\n",
        "text.npz": "no arrays",
        "space.json": SPACE.to_json(),
        **OBJECTIVES,
    }.items():
        (folder / name).write_text(text)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00x")
    for name, held in (("cifar", {"data": "none"}), ("hostile", os.system)):
        (folder / name).mkdir()
        (folder / name / "test_batch").write_bytes(pickle.dumps(held))
    (folder / "empty").mkdir()
    (folder / "saved").mkdir()
    (folder / "saved" / "config.json").write_text("{}")
    shutil.copy(PHOTO, folder / "photo.jpg")
    shutil.copy(PHOTO, folder / "photos.ZIP")
    for name in ("cat", "dog"):
        for copy in range(3):
            (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(PHOTO, folder / "photos" / name / f"{copy}.jpg")
    shutil.copytree(folder / "photos", folder / "spoilt")
    (folder / "spoilt" / "cat" / "0.jpg").write_text("this is no photo")
    rows = SPACE.unique(SPACE.sample(60, np.random.default_rng(0))).tolist()
    lines = [",".join(map(str, [*row, 100 + sum(row), 60 + sum(row)])) for row in rows]
    names = ",".join(f"g{n}" for n in range(6)) + ",cost:macs,label"
    (folder / "labels.csv").write_text("\n".join([names, *lines]) + "\n")
    return folder


RUN = "fbnetv3-search run new --space space.json"
FRESH = "fbnetv3 export fbnetv3_nano -o x.onnx --no-pretrained"
TABLE = f"{RUN} --table labels.csv --batch 6"
NANO = "--model fbnetv3_nano.cifar10"
TRAIN = f"fbnetv3 train --data photos {NANO}"
LATENCY = "fbnetv3 latency fbnetv3_nano.cifar10 --threads 1"
QUICK = f"{LATENCY} --seconds 0.1"
DATA = "fbnetv3-search run new --space cifar_joint --data photos"
LINES = "fbnetv3-search latency-table t.json --space cifar_joint"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        # Files and folders.
        ("fbnetv3 classify empty --embedded", 2, "no images in empty"),
        ("fbnetv3 classify photo.jpg --model text.onnx", 2, "text.onnx is not an ONNX file"),
        ("fbnetv3 flops broken.json", 2, "not valid JSON"),
        ("fbnetv3 flops list.json", 2, "expected a JSON object"),
        ("fbnetv3 flops binary.json", 2, "not valid JSON"),
        ("fbnetv3 convert photo.jpg x.safetensors --model fbnetv3_a", 2, "cannot read checkpoint"),
        ("fbnetv3 train --data empty --seed " + "9" * 20, 2, "expected a whole number of 64 bits"),
        (
            "fbnetv3 convert empty x.safetensors --model fbnetv3_a",
            2,
            "empty is a folder",
        ),
        (f"{QUICK} -o nowhere/x.jsonl", 2, "no folder nowhere to write x.jsonl to"),
        (f"{QUICK} -o empty", 2, "cannot write empty: it is a folder; give a file name in it"),
        (f"{QUICK} --plot nowhere/x.svg", 2, "no folder nowhere to write x.svg to"),
        (f"{QUICK} --images empty", 2, "no images in empty"),
        (
            "fbnetv3 explain photo.jpg -o nowhere/x.png",
            2,
            "no folder nowhere to write x.png to; make it first",
        ),
        ("fbnetv3 demo --out file --no-serve", 2, "cannot write file"),
        ("fbnetv3 train --data photos.ZIP", 2, "photos.ZIP is an archive; unpack it"),
        ("fbnetv3 train --data nowhere", 2, "no data folder at nowhere"),
        ("fbnetv3 train --data photo.jpg", 2, "no data folder at photo.jpg"),
        ("fbnetv3 train --data empty", 2, "empty holds no class folders"),
        (f"{TRAIN} --out file", 2, "cannot write file: it is a file; give the name of a folder"),
        (f"{TRAIN} --recipe nowhere.json", 2, "no recipe at nowhere.json"),
        (f"{TRAIN} --recipe list.json", 2, "expected a JSON object"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data empty", 2, "empty holds no class folders"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data photos --split val", 2, "has no val part"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data cifar", 2, "test_batch is not a CIFAR-10 batch"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data hostile", 2, "which CIFAR-10 does not"),
        ("fbnetv3 eval local-dir:nowhere --data photos", 2, "no nowhere/config.json"),
        (
            "fbnetv3-search run file --space space.json --table labels.csv --batch 6",
            2,
            "file is a file",
        ),
        (f"{RUN} --table short.csv", 2, "short.csv, line 2: 1 cells; expected 2"),
        (f"{RUN} --table text.npz", 2, "text.npz is not an npz file"),
        (f"{RUN} --table photo.jpg", 2, "photo.jpg has an unknown format"),
        ("fbnetv3-search run new --space list.json --table labels.csv", 2, "schema is [1, 2]"),
        ("fbnetv3-search run new --space broken.json --table labels.csv", 2, "broken.json is not"),
        (f"{TABLE} --labels nowhere.csv", 2, "no labels at nowhere.csv"),
        (f"{TABLE} --labels bare.csv", 2, "bare.csv has no column 'label'; it has ['g0', 'g1']"),
        (f"{TABLE} --labels cut.csv", 2, "cut.csv, line 2: 6 cells; expected 7"),
        (f"{TABLE} --labels outside.csv", 2, "outside.csv, line 2: gene 'g0' cannot be 9"),
        (f"{TABLE} --labels photo.jpg", 2, "photo.jpg is not a CSV text file"),
        (f"{TABLE} --latency other.json", 2, "this is not a latency table"),
        (
            "fbnetv3-search run new --space cifar_joint --data empty",
            2,
            "empty holds no class folders",
        ),
        ("fbnetv3-search resume empty", 2, "empty holds no search"),
        ("fbnetv3-search report file", 2, "file holds no search"),
        ("fbnetv3-search space other.json", 2, "schema is None"),
        ("fbnetv3-search latency-table no/t.json --space cifar_joint", 2, "no folder no"),
        # Words and numbers.
        ("fbnetv3 list nosuch", 2, "unknown model 'nosuch'"),
        # What newcomers met.
        ("fbnetv3 quantize nano.onnx -o n8.onnx", 2, "--calib is missing: "),
        ("fbnetv3-search space", 2, "NAME is missing: "),
        ("fbnetv3-search run new --data photos", 2, "; see `fbnetv3-search run -h`"),
        ("fbnetv3 classify photo.jpg --model text.onx", 2, "did you mean the file text.onnx?"),
        ("fbnetv3 info resnet50", 2, "unknown model 'resnet50'. See `fbnetv3 list`"),
        pytest.param(
            *("fbnetv3 detect train --data shape --out d", 2, "no file or folder shape; expected"),
            marks=pytest.mark.needs("pycocotools"),
        ),
        ("fbnetv3 classify photo.jpg --model nano.xml", 2, "no file nano.xml; make one with"),
        ("fbnetv3 eval text.onnx --data photos", 2, "text.onnx is not an ONNX file"),
        ("fbnetv3 eval no.onnx --data photos", 2, "no file no.onnx; make one with"),
        (
            "fbnetv3 eval text.onnx --data photos --device cuda",
            2,
            "text.onnx is an exported file, which runs on the CPU; --device cuda is for PyTorch",
        ),
        (f"{DATA} --set foo=1", 2, "no field 'foo'"),
        ("fbnetv3 list fbnetv3_ee", 2, "did you mean 'fbnetv3_e'"),
        ("fbnetv3 classify photo.jpg --embedded --top-k 0", 2, "top_k is 0"),
        (f"{QUICK} --batch 0", 2, "batch size is 0"),
        (f"{LATENCY} --seconds -1", 2, "max_seconds is -1.0; expected a number above 0"),
        (f"{TRAIN} --set epochs", 2, "expected field=value"),
        (f"{TRAIN} --device tpu", 2, "device is 'tpu'; expected cpu, cuda"),
        (f"{LATENCY} --device tpu", 2, "device is 'tpu'; expected cpu, cuda"),
        ("fbnetv3 classify photo.jpg --embedded --device tpu", 2, "device is 'tpu'"),
        (
            "fbnetv3 classify photo.jpg --model text.onnx --device cuda",
            2,
            "text.onnx is an exported file, which runs on the CPU; --device cuda is for PyTorch",
        ),
        (f"{TRAIN} --epochs 0", 2, "epochs is 0"),
        (f"{TRAIN} --set mixup=0.2 --batch-size 5", 2, "an even number where mixup is on"),
        (f"{TRAIN} --teacher-cache t", 2, "--teacher-cache is given without --teacher"),
        (f"{TRAIN} --val-share 2", 2, "expected a number between 0 and 1"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data photos --batch-size 0", 2, "batch_size is 0"),
        ("fbnetv3 eval fbnetv3_nano.cifar10 --data photos --device tpu", 2, "device is 'tpu'"),
        ("fbnetv3 demo --port 99999", 2, "99999 is not in the range"),
        (f"{TABLE} --seed -1", 2, "seed is -1"),
        (f"{TABLE} --epochs 7", 2, "the table has curves of 1"),
        (f"{TABLE} --predictor magic", 2, "unknown predictor 'magic'"),
        (f"{TABLE} --bin-by speed", 2, "the known costs are macs"),
        (f"{TABLE} --workers 0", 2, "--workers is 0"),
        (f"{TABLE} --timeout -1", 2, "timeout_s is -1"),
        (f"{LINES} --device tpu", 2, "device is 'tpu'"),
        (f"{LINES} --seed -1", 2, "--seed is -1; expected 0 or more"),
        ("fbnetv3-search finish s --seed " + "9" * 20, 2, "expected a whole number of 64 bits"),
        (f"{LINES} --networks 1", 2, "--networks is 1; expected 4"),
        (f"{LINES} --num-classes 0", 2, "--num-classes is 0"),
        (f"{DATA} --set device=tpu", 2, "'tpu'"),
        # What excludes each other.
        ("fbnetv3 fetch fbnetv3_e --all", 2, "exclude each other"),
        ("fbnetv3 fetch fbnetv3_e --license MIT", 2, "license is 'MIT'; expected 'commercial' or"),
        ("fbnetv3 classify photo.jpg --license MIT", 2, "license policy is 'MIT'"),
        (f"{TABLE} --max-running 0", 2, "--max-running: for --engine ray"),
        (f"{TABLE} --gpus-each 1", 2, "--gpus-each: for --engine ray"),
        (
            f"{TABLE} --max-running 4 --address auto",
            2,
            "--address, --max-running: for --engine ray",
        ),
        ("fbnetv3 latency text.onnx --backend torch", 2, "text.onnx is a file; torch's backends"),
        (f"{QUICK} --plot x.svg", 2, "give --images"),
        (f"{QUICK} --images photos/cat --plot x.svg", 2, "no folders called after the classes"),
        (
            "fbnetv3 export fbnetv3_a -o x.pte --precision fp16",
            2,
            "--precision fp16: not for a .pte file",
        ),
        ("fbnetv3 export fbnetv3_a -o x.pte --opset 18 --check-target", 2, "--opset 18, --check"),
        ("fbnetv3 export fbnetv3_a -o x.onnx --batch-size 4 --dynamic batch", 2, "give one of"),
        (f"{FRESH} --triton models", 2, "give --output FILE or --triton FOLDER, one of them"),
        (f"{FRESH} --batch-size 0", 2, "batch_size is 0; expected a whole number from 1"),
        (f"{FRESH} --image-size -3", 2, "image_size is -3; expected a whole number of pixels"),
        (f"{FRESH} --image-size 1000000000", 2, "image_size is 1000000000; expected a whole"),
        (f"{FRESH} --image-size x", 2, "'--image-size': 'x' is not a valid int"),
        (f"{FRESH} --batch-size 1000000000", 2, "batch_size is 1000000000; expected a whole"),
        (f"{FRESH} --num-classes 1000000000", 2, "num_classes is 1000000000; expected a whole"),
        (f"{FRESH} --opset 1000", 2, "opset is 1000"),
        ("fbnetv3 export fbnetv3_nano.cifar10 -o x.abc", 2, "file is x.abc; expected a name"),
        ("fbnetv3 export fbnetv3_nano.cifar10 -o file/x.onnx", 2, "cannot write file/x.onnx"),
        ("fbnetv3 export fbnetv3_nano.cifar10 -o empty/.onnx", 2, "file is empty/.onnx"),
        (f"{FRESH} --num-classes 0", 2, "num_classes is 0; expected a whole number from 1"),
        (f"{TABLE} --address here", 2, "--address: for --engine ray"),
        # Words of other programs, and words without their option.
        ("fbnetv3 predict photo.jpg", 2, "no command 'predict'; did you mean `fbnetv3 classify`?"),
        ("fbnetv3 benchmark", 2, "did you mean `fbnetv3 latency`?"),
        ("fbnetv3 search", 2, "did you mean `fbnetv3-search run`?"),
        ("fbnetv3 version", 2, "did you mean `fbnetv3 --version`?"),
        ("fbnetv3 detect infer", 2, "did you mean `fbnetv3 detect predict`?"),
        ("fbnetv3-search tune", 2, "did you mean `fbnetv3-search run`?"),
        ("fbnetv3 train photos/", 2, "did you mean `fbnetv3 train --data photos/`?"),
        ("fbnetv3 detect train photos", 2, "did you mean `fbnetv3 detect train --data photos`?"),
        ("fbnetv3 demo x.onnx", 2, "did you mean `fbnetv3 demo --model x.onnx`?"),
        ("fbnetv3 eval photos --model=x.onnx", 2, "--model is no option; give the value alone"),
        ("fbnetv3 export saved -o x.onnx", 2, "did you mean 'local-dir:saved', the folder?"),
        ("fbnetv3 export ./saved -o x.onnx", 2, "did you mean 'local-dir:saved'?"),
        ("fbnetv3 export local-dir:empty -o x.onnx", 2, "if its training was stopped, finish it"),
        # Somebody's own objective.
        (f"{RUN} --objective good.py", 2, "expected 'module:name' or 'file.py:name'"),
        (f"{RUN} --objective good.py:other", 2, "has no 'other'"),
        (f"{RUN} --objective good.py:make --set a=1", 2, "wrong settings of the python"),
        (f"{RUN} --objective undefined.py:make", 2, "raised NameError: name 'undefined_name'"),
        (f"{RUN} --objective raising.py:make", 2, "raised RuntimeError: no data"),
        (f"{RUN} --objective number.py:make", 2, "expected an object with evaluate"),
        (f"{RUN} --objective needing.py:make", 3, "needs no_such_library; install it"),
        (f"{RUN} --objective no_such_module:make", 2, "no module 'no_such_module'"),
    ],
)
def test_a_mistake_ends_in_one_line(
    line: str, code: int, message: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("FBNETV3_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(place.iterdir())
    program, *words = line.split()
    done = CliRunner().invoke(APPS[program], words, prog_name=program)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    assert message in done.stderr
    lines = [text for text in done.stderr.splitlines() if not text.startswith("note: ")]
    assert len(lines) == 1 or lines[0].startswith("Usage: ")
    assert sorted(place.iterdir()) == before, "a mistake leaves nothing behind"


def test_an_evaluation_names_a_damaged_image_and_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    words = ["eval", "fbnetv3_nano.cifar10", "--data", "spoilt"]
    done = CliRunner().invoke(APPS["fbnetv3"], words)
    assert done.exit_code == 1, done.output
    assert "1 of the 6 images of spoilt cannot be read" in done.stderr
    assert str(Path("spoilt", "cat", "0.jpg")) in done.stderr
    assert "5 images of spoilt" in done.stdout
    (listed,) = (line for line in done.stdout.splitlines() if line.startswith("not counted: "))
    assert str(Path("spoilt", "cat", "0.jpg")) in listed


def test_a_folder_that_cannot_be_written_is_failed_work(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        locked = Path("/sys")  # where the superuser may not write either
    weights = PHOTO.parents[1] / "fbnetv3_nano.cifar10.safetensors"
    words = ["convert", str(weights), str(locked / "x.safetensors"), "--model", "fbnetv3_nano"]
    done = CliRunner().invoke(APPS["fbnetv3"], words)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith(f"error: cannot use {locked}/x.safetensors")
    assert done.stderr.count("\n") == 1


def test_a_current_folder_that_was_deleted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir("gone")
    (tmp_path / "gone").rmdir()
    done = CliRunner().invoke(APPS["fbnetv3"], ["list"])
    assert done.exit_code == 2
    assert done.stderr == (
        "error: the current folder does not exist any more; cd to one that does\n"
    )


def test_no_gpu_is_said_with_a_way_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    classify = "fbnetv3 classify photo.jpg --embedded"
    for command in (TRAIN, LINES, LATENCY, classify):
        line = f"{command} --device cuda"
        program, *words = line.split()
        done = CliRunner().invoke(APPS[program], words)
        assert done.exit_code == 2
        assert "finds no GPU here: use cpu, or see `fbnetv3 doctor`" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("a\n  b"), 2, "a b"),
        (FileNotFoundError(2, "No such file", "x"), 2, "cannot use x: No such file"),
        (PermissionError(13, "Permission denied", "x"), 1, "cannot use x: Permission denied"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "MemoryError"),
        (RuntimeError("CUDA out of memory. Tried"), 1, "CUDA out of memory. Tried"),
        (ModuleNotFoundError("No module named 'fvcore'"), 3, 'pip install --upgrade "fbnetv3-zoo"'),
        (ImportError("needs x: pip install x"), 3, "needs x: pip install x"),
        (RuntimeError("a bug"), None, "a bug"),
        (KeyError("a bug"), None, "a bug"),
    ],
)
def test_what_a_user_can_cure_is_told_from_our_bugs(
    error: Exception, code: int | None, text: str
) -> None:
    assert cli_group._code_of(error) == code
    assert text in cli_group._line_of(error)


def program(
    name: str, *words: str, cwd: Path, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Returns the installed program as a process group of its own."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name(name)), *words],
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background has interrupts ignored, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


@pytest.mark.parametrize(
    "words",
    [
        ("fbnetv3", "list", "--json"),
        ("fbnetv3", "list"),
        ("fbnetv3", "--help"),
        ("fbnetv3-search", "run", "--help"),
        ("fbnetv3-search", "space", "paper_joint", "--json"),
    ],
)
def test_a_reader_that_goes_away_ends_it_quietly(words: tuple[str, ...], place: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # before anything is written
    process = program(*words, cwd=place, stdout=writer)
    os.close(writer)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def interrupted(process: subprocess.Popen[str], begun: Path) -> str:
    """Sends Ctrl-C to a whole process group once a path exists; returns the error output."""
    deadline = time.monotonic() + 120
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return err


@pytest.mark.slow
def test_ctrl_c_in_a_search_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    words = ["run", str(folder), "--space", "space.json", "--objective", "slow.py:make"]
    process = program("fbnetv3-search", *words, "--batch", "4", "--pool", "50", cwd=place)
    err = interrupted(process, folder / "workers" / "0.log")
    assert process.returncode == 130, err
    assert f"fbnetv3-search resume {folder}" in err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_in_a_training_says_how_to_go_on(place: Path, tmp_path: Path) -> None:
    words = ["train", "--data", "photos", "--model", "fbnetv3_nano.cifar10", "--epochs", "5000"]
    process = program("fbnetv3", *words, "--out", str(tmp_path / "run"), cwd=place)
    err = interrupted(process, tmp_path / "run" / "log.json")
    assert process.returncode == 130, err
    assert "note: stopped by SIGINT at step" in err
    assert "a checkpoint was saved, the same command resumes" in err
    assert "Traceback" not in err
