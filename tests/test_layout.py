"""The house's rules: which room may import which, and what is imported only where it is used."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.paths import ROOT

# Package -> folder. Neither folder's name is ever imported.
FOLDERS = {"fbnetv3": ROOT / "fbnetv3_zoo", "fbnetv3.search": ROOT / "search"}

# A room imports itself and rooms that stand before it. Every room of the search may import all of
# the zoo up to `measure`; who lends whom a command is below.
ZOO_ROOMS = (
    *("_internal", "arch", "images", "models", "checkpoints", "hub", "deploy", "measure"),
    *("integrations", "demo", "cli"),
)
SEARCH_ROOMS = (
    *("space", "cost", "data", "training", "predictors", "storage", "execution", "nars"),
    *("report", "api", "finish", "cli"),
)
ROOMS = (
    *(f"fbnetv3.{room}" for room in ZOO_ROOMS[:-1]),
    *(f"fbnetv3.search.{room}" for room in SEARCH_ROOMS),
    # Trains with parts of the search's loop.
    "fbnetv3.detection",
    "fbnetv3.cli",
)
# `fbnetv3-search` shares the options of `fbnetv3`, which in turn lends `train` and `eval` a place.
LENT = {("fbnetv3.search.cli", "fbnetv3.cli")}
# Paths that users were told to import before there were rooms; each only passes names on.
THIN = {"fbnetv3.timm_models", "fbnetv3.torchvision_backbone", "fbnetv3.search.cli_train"} | {
    f"fbnetv3.detectron2_{name}" for name in ("backbone", "config", "hooks")
}
TOP = {"fbnetv3", "fbnetv3.__main__", "fbnetv3._version", "fbnetv3.search"} | {
    "fbnetv3.search.__main__"
}

# Rooms and files that can be used where torch is not wanted, with all that they import at once.
TORCH_FREE = [
    "_internal",
    "arch",
    "images",
    "hub.arch_file",
    "hub.cache",
    "hub.download",
    "hub.hub_repo",
    "hub.license_policy",
    "hub.pretrained_cfg",
    "hub.registry",
    "hub.weights",
    "deploy.answer_file",
    "deploy.answer_table",
    "deploy.backend",
    "deploy.classify",
    "deploy.confidence",
    "deploy.qdq",
    "deploy.quantize",
    "deploy.quantize_score",
    "deploy.ray_classify",
    "deploy.runtimes",
    "detection.detections",
    "detection.exported",
    "detection.outside",
    "detection.pictures",
    "demo.server",
    "demo.web_runtime",
    "cli.app",
    "cli.classify",
    "cli.completion",
    "cli.demo",
    "cli.deploy",
    "cli.detect",
    "cli.doctor",
    "cli.explain",
    "cli.group",
    "cli.latency",
    "cli.options",
    "cli.quantize",
    "cli.weights",
    "search.space",
    "search.storage",
    "search.cost.cost",
    "search.cost.latency_table",
    "search.cost.operators",
    "search.cost.scale",
    "search.training.recipe",
    "search.predictors.quality",
    "search.execution.objective",
    "search.nars",
    "search.report",
    "search.api",
    "search.cli.app",
    "search.cli.ask",
    "search.cli.carrying_out",
    "search.cli.existing",
    "search.cli.finish",
    "search.cli.objectives",
    "search.cli.run",
    "search.cli.scale",
    "search.cli.spaces",
    "search.cli.words",
]
NUMPY_FREE = [
    "arch",
    "images.labels",
    "hub.license_policy",
    "hub.registry",
    "hub.weights",
    "cli.app",
    "cli.completion",
]

# Library -> the only files that may import it.
OPTIONAL = {
    "ai_edge_litert": "deploy.runtimes.litert",
    "ai_edge_quantizer": "deploy.runtimes.litert",
    "coremltools": "deploy.runtimes.coreml",
    "detectron2": "integrations.detectron2_backbone integrations.detectron2_config "
    "integrations.detectron2_hooks integrations.detectron2_weights",
    "executorch": "deploy.runtimes.executorch",
    "litert_torch": "deploy.runtimes.litert",
    "mlflow": "search.training.log_mlflow",
    "nncf": "deploy.runtimes.openvino",
    "openvino": "deploy.runtimes.openvino",
    "optuna": "search.nars.export",
    "pandas": "search.api.found",
    "pyarrow": "deploy.answer_table search.data.formats search.execution.objective",
    "pycocotools": "integrations.coco_folder integrations.coco_records integrations.coco_scores",
    "ray": "_internal.ray_start deploy.ray_classify search.execution.ray_engine",
    "tensorboard": "",  # by way of torch's own writer
    "wandb": "search.training.log_wandb",
}
# Library -> the files that are about it, and so may import it outside functions.
AT_THE_TOP = {
    "detectron2": "integrations.detectron2_backbone integrations.detectron2_hooks "
    "integrations.detectron2_weights",
    "timm": "integrations.timm_entrypoints",
    "torchvision": "integrations.torchvision_backbone integrations.detector_options "
    "detection.fixed detection.optimizer detection.resizing detection.torchvision_trunks",
}
# Required, but slow to import. The rooms of commands are about typer.
SLOW = {"fvcore", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "onnxscript"} | {
    "rich",
    "scipy",
    "timm",
    "torchvision",
    "transformers",
    "typer",
}


@dataclass(frozen=True)
class Import:
    """One imported module, as the file names it, made absolute."""

    module: str
    level: int
    lazy: bool  # inside a function
    typing_only: bool


def imports(path: Path, package: str) -> Iterator[Import]:
    """Yields all imports of a file; that of `from x import y` as `x.y`."""

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, 0, lazy, typing_only)
            elif isinstance(child, ast.ImportFrom):
                near = package.split(".")[: package.count(".") + 2 - child.level]
                base = ".".join([*near, child.module] if child.module else near)
                base = base if child.level else child.module or ""
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.level, lazy, typing_only)
            guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, lazy or inside, typing_only or guard)

    yield from visit(ast.parse(path.read_text()), False, False)


def _all_files() -> dict[str, Path]:
    """Returns every file of the package by its module's name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):  # does not follow the link to the search
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


FILES = _all_files()
IMPORTS = {
    module: list(imports(path, module if path.name == "__init__.py" else module.rpartition(".")[0]))
    for module, path in FILES.items()
}


def own(module: str) -> str | None:
    """Returns the file of ours that an import names, if any: `arch.arch` of `arch.arch.Arch`."""
    while module and module not in FILES:
        module = module.rpartition(".")[0]
    return module or None


def room(module: str) -> str | None:
    """Returns the room of a file of ours; none of those at the top."""
    return next((r for r in ROOMS if module == r or module.startswith(f"{r}.")), None)


def at_once(module: str) -> set[str]:
    """Returns all that importing a file of ours imports, of ours and of libraries."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for entry in IMPORTS[waiting.pop()]:
            if entry.lazy or entry.typing_only:
                continue
            name = own(entry.module) or entry.module.partition(".")[0]
            if name not in found:
                found.add(name)
                if name in IMPORTS:
                    waiting.append(name)
    return found


def short(module: str) -> str:
    return module.removeprefix("fbnetv3.")


def files_of(names: list[str]) -> list[str]:
    """Returns the files that names of rooms and files stand for."""
    return [m for m in FILES for name in names if f"{short(m)}.".startswith(f"{name}.")]


def test_the_rules_see_the_files() -> None:
    assert {"fbnetv3.arch.arch", "fbnetv3.cli.app", "fbnetv3.search.nars.run"} <= set(FILES)
    assert "torch" in at_once("fbnetv3.models.model")
    assert {"fbnetv3.arch.arch", "fbnetv3.hub.weights"} <= at_once("fbnetv3.hub.registry")
    assert {r for module in FILES if (r := room(module))} == set(ROOMS)
    assert len(files_of(TORCH_FREE)) > 40


def test_every_file_has_a_room() -> None:
    assert {module for module in FILES if room(module) is None} == TOP | THIN


@pytest.mark.parametrize("module", sorted(THIN))
def test_a_path_kept_for_users_only_passes_names_on(module: str) -> None:
    assert not any(
        isinstance(node, ast.FunctionDef | ast.ClassDef)
        for node in ast.parse(FILES[module].read_text()).body
    )


@pytest.mark.parametrize("folder", ["fbnetv3_zoo", "search", "tests", "benchmarks"])
def test_nobody_imports_a_folder_by_its_name(folder: str) -> None:
    # Both would succeed from the root, and give a second copy of every class.
    paths = [p for p in (ROOT / folder).rglob("*.py") if not p.is_symlink()]
    assert paths
    for path in paths:
        for entry in imports(path, "somewhere"):
            assert entry.module.partition(".")[0] not in ("fbnetv3_zoo", "search"), path


@pytest.mark.parametrize("module", [module for module in FILES if room(module)])
def test_a_file_imports_its_own_room_and_rooms_before_it(module: str) -> None:
    here = room(module)
    assert here is not None
    for entry in IMPORTS[module]:
        file = own(entry.module)
        there = room(file) if file else None
        if file is None or there is None:
            continue
        assert ROOMS.index(there) <= ROOMS.index(here) or (here, there) in LENT, entry.module
        assert (entry.level > 0) == (there == here), (
            f"{entry.module}: relative inside a room, absolute between rooms"
        )


def test_the_search_uses_neither_integrations_nor_the_demo() -> None:
    used = {
        room(own(entry.module) or "")
        for module in FILES
        if module.startswith("fbnetv3.search.")
        for entry in IMPORTS[module]
    }
    assert not used & {"fbnetv3.integrations", "fbnetv3.demo"}


def test_no_two_files_import_each_other() -> None:
    graph = {
        module: {
            file
            for entry in entries
            if (file := own(entry.module)) and file != module and file not in TOP
        }
        for module, entries in IMPORTS.items()
        if module not in TOP
    }
    circles = {(a, b) for a in graph for b in graph[a] if a < b and a in graph.get(b, ())}
    assert circles == set()


def test_no_file_imports_itself_through_others_at_once() -> None:
    for module in IMPORTS:
        assert module not in at_once(module) - {"fbnetv3"}, f"{module} imports itself"


@pytest.mark.parametrize(
    ("library", "module"),
    [
        (library, module)
        for library, names in (("torch", TORCH_FREE), ("numpy", NUMPY_FREE))
        for module in files_of(names)
    ],
)
def test_these_files_do_without(library: str, module: str) -> None:
    assert library not in at_once(module)


@pytest.mark.parametrize("library", OPTIONAL)
def test_an_optional_library_is_imported_by_its_own_files_only(library: str) -> None:
    users = {
        short(module)
        for module, entries in IMPORTS.items()
        for entry in entries
        if entry.module.partition(".")[0] == library
    }
    assert users <= set(OPTIONAL[library].split())


def test_slow_and_optional_libraries_are_imported_inside_functions() -> None:
    hasty = {
        (short(module), library)
        for module, entries in IMPORTS.items()
        for entry in entries
        if not (entry.lazy or entry.typing_only)
        and (library := entry.module.partition(".")[0]) in SLOW | set(OPTIONAL)
        and short(module) not in AT_THE_TOP.get(library, "").split()
        and not (library == "typer" and str(room(module)).endswith(".cli"))
    }
    assert hasty == set()


def test_nothing_of_ours_is_pickled() -> None:
    for module, path in FILES.items():
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        }
        assert not calls & {"pickle.dump", "pickle.dumps", "pickle.load", "pickle.loads"}, module
        assert "torch.load" not in calls, module
        # Detectron2 reads no other file than torch's; what is in it are tensors and words.
        assert "torch.save" not in calls or path.stem == "detectron2_weights", module


def test_whole_files_are_written_in_one_way() -> None:
    renaming = {
        short(module)
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        # With one argument it is a path's; that of texts has two.
        and ((name := node.func.attr) in {"fsync", "mkstemp", "NamedTemporaryFile", "rename"})
        | (name == "replace" and len(node.args) == 1 and not node.keywords)
        | (ast.unparse(node.func) == "os.replace")
    }
    # A download and answers flush what they resume; a store puts its old database aside.
    others = {"hub.download", "deploy.answer_file", "search.storage.store", "search.report.page"}
    assert "_internal.files" in renaming
    assert renaming <= {"_internal.files", *others}


def test_static_tools_find_both_folders() -> None:
    for link, target in (
        ("fbnetv3_zoo/search", "../search"),
        (".typings/fbnetv3", "../fbnetv3_zoo"),
    ):
        assert os.readlink(ROOT / link) == target


def loaded_after(code: str) -> set[str]:
    """Returns the modules that a fresh Python has loaded after some code."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split("\n")[-2].split())


LOOK_UPS = "import fbnetv3 as f; f.list_models(); f.find(max_macs=6e8); f.get_arch('fbnetv3_a')"


@pytest.mark.parametrize(
    "code", ["import fbnetv3", "import fbnetv3.search", LOOK_UPS, "import fbnetv3.cli.app"]
)
def test_looking_things_up_loads_no_large_library(code: str) -> None:
    loaded = loaded_after(code)
    assert "fbnetv3" in loaded
    assert not loaded & ({"torch", "numpy", "PIL"} | (SLOW - {"typer"}) | set(OPTIONAL))
    if code in ("import fbnetv3", "import fbnetv3.search"):
        own = {name for name in loaded if name.startswith("fbnetv3.")}
        assert own == {"fbnetv3._internal", "fbnetv3._internal.lazy", *code.split()[1:]} - {
            "fbnetv3"
        }


def test_no_record_names_a_path_of_the_machine_that_made_it() -> None:
    records = [
        path
        for path in (ROOT / "benchmarks").rglob("*")
        if path.suffix in {".json", ".jsonl", ".md", ".html", ".svg", ".csv"}
    ]
    assert len(records) > 50
    own = re.compile(r"(?<![\w.])/(root|work|home|Users|mnt|tmp/tmp\w+)/\w[^\s\"']*")
    for path in records:
        assert not own.search(path.read_text()), path


SCRIPTS = sorted(
    path for path in (ROOT / "benchmarks").rglob("*.py") if "__main__" in path.read_text()
)


def test_a_benchmark_is_named_as_it_can_be_started() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
    pages += [
        p for name in ("fbnetv3_zoo", "search", "benchmarks") for p in (ROOT / name).rglob("*.py")
    ]
    started, files = set(), set()
    for page in pages:
        text = page.read_text()
        assert not re.search(r"python3? benchmarks/", text), (
            f"{page}: `python -m benchmarks.ROOM.X`"
        )
        started |= {
            script if script.is_file() else script.with_suffix("") / "__main__.py"
            for name in re.findall(r"-m (benchmarks\.[a-z_\d.]*[a-z\d])", text)
            for script in [ROOT / f"{name.replace('.', '/')}.py"]
        }
        files |= {ROOT / name for name in re.findall(r"(?<![\w/])benchmarks/[\w/]+\.py", text)}
    assert len(started) > 20
    assert sorted(started - set(SCRIPTS)) == []
    assert sorted(path for path in files if not path.is_file()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_started(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert name.count(".") == 2, "a benchmark stands in a room"
    name = name.removesuffix(".__main__")
    assert f"python -m {name} " in f"{ast.get_docstring(ast.parse(path.read_text()))} ".replace(
        "\n", " "
    )
