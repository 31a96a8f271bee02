"""The house's rules: which file may import which, and what is imported only where it is used."""

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

ROOT = Path(__file__).parent.parent
if not (ROOT / "fbnetv3_zoo").is_dir():
    pytest.skip(
        "the sources are not beside the tests; they run on a wheel", allow_module_level=True
    )

# Package -> folder. Neither folder's name is ever imported.
FOLDERS = {"fbnetv3": ROOT / "fbnetv3_zoo", "fbnetv3.search": ROOT / "search"}

# What the search may use of the zoo, beside the names of `import fbnetv3`.
SEARCH_USES = frozenset(
    {
        "arch",
        "checkpoint",
        "cli_group",
        "completion",
        "counts",
        "json_record",
        "labels",
        "latency",
        "messages",
        "model",
        "optional",
        "preprocess",
        "pretrained",
        "pretrained_cfg",
    }
    | {"registry", "tables", "weights"}
)
# The only place where the zoo knows of the search: the command line lends it two commands.
ZOO_USES_SEARCH = {("fbnetv3.cli", "fbnetv3.search")}

# Of the zoo's own files, all that each of these may import, inside functions too.
ROOMS = {
    "_version": set(),
    "arch": {"json_record", "messages"},
    "json_record": {"messages"},
    "messages": set(),
    "arch_file": {"arch", "hub_repo"},
    "tables": {"arch"},
    "counts": {"arch"},
    "blocks": set(),
    "features": {"arch"},
    "model": {"arch", "blocks", "features"},
    "convert": {"arch"},
    "labels": set(),
    "images": {"messages"},
    "weights": {"arch", "convert", "preprocess", "tables"},
    "license_policy": {"weights"},
    "torch_pickle": set(),
    "checkpoint": {"messages", "torch_pickle"},
    "download": {"checkpoint"},
    "hub_repo": {"download", "weights"},
    "loading": {"arch", "checkpoint", "model"},
    "registry": {"arch", "arch_file", "counts", "features", "model", "source", "tables", "weights"},
    "flop_count": {"arch", "model", "registry"},
    "latency": set(),
}
# Files that can be used where torch is not wanted, with all that they import at once.
TORCH_FREE = {
    "fbnetv3": "arch arch_file convert counts images json_record labels labelled license_policy "
    "preprocess pretrained_cfg registry tables weights cli completion cli_demo cli_deploy "
    "cli_group cli_latency cli_options cli_weights demo_server optional "
    "qdq quantize quantize_score",
    "fbnetv3.search": "cost evolve gene latency_table objective operators optimize problem recipe "
    "quality report_style run scale select space space_checks spaces store store_queries trials "
    "cli cli_ask cli_run cli_spaces cli_words",
}
NUMPY_FREE = {"fbnetv3": "arch counts labels license_policy registry tables weights cli completion"}

# Library -> the files that may import it.
OPTIONAL = {
    "detectron2": "detectron2_backbone detectron2_config detectron2_hooks detectron2_weights",
    "executorch": "targets",
    "matplotlib": "plot search.logbook",
    "nncf": "openvino_model",
    "openvino": "bench openvino_model",
    "optuna": "search.export",
    "pyarrow": "search.formats search.objective",
    "pycocotools": "coco_folder",
    "ray": "search.ray_engine",
}
# Library -> the files that are about it, and so may import it outside functions.
AT_THE_TOP = {
    "detectron2": "detectron2_backbone detectron2_hooks detectron2_weights",
    "timm": "timm_entrypoints",
    "torchvision": "torchvision_backbone",
    "typer": "cli cli_demo cli_deploy cli_group cli_latency cli_options cli_weights search.cli_ask "
    "search.cli_run search.cli_spaces search.cli_train search.cli_words",
}
# Required, but slow to import.
SLOW = {"fvcore", "huggingface_hub", "onnx", "onnxruntime", "onnxscript", "rich", "timm"} | {
    "scipy",
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
    """Yields all imports of a file, those of `from . import name` as the module `name`."""

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, 0, lazy, typing_only)
            elif isinstance(child, ast.ImportFrom):
                base = (
                    f"{package}.{child.module or ''}".rstrip(".") if child.level else child.module
                )
                assert base is not None
                for alias in child.names:
                    whole = base if child.module and base not in FOLDERS else f"{base}.{alias.name}"
                    yield Import(whole, child.level, lazy, typing_only)
            guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, lazy or inside, typing_only or guard)

    yield from visit(ast.parse(path.read_text()), False, False)


def _all_imports() -> dict[str, list[Import]]:
    return {
        f"{package}.{path.stem}": list(imports(path, package))
        for package, folder in FOLDERS.items()
        for path in sorted(folder.glob("*.py"))
    }


IMPORTS = _all_imports()


def own(module: str) -> str | None:
    """Returns the file of ours that an import names, if any: `fbnetv3.arch` of `fbnetv3.arch.X`."""
    if module in FOLDERS:
        return f"{module}.__init__"
    parts = module.split(".")
    for length in (3, 2):
        name = ".".join(parts[:length])
        if name in IMPORTS:
            return name
    return f"{'.'.join(parts[:-1])}.__init__" if module.rpartition(".")[0] in FOLDERS else None


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


def test_the_rules_see_the_files() -> None:
    assert {"fbnetv3.arch", "fbnetv3.cli", "fbnetv3.search.run"} <= set(IMPORTS)
    assert "torch" in at_once("fbnetv3.model")
    assert {"fbnetv3.arch", "fbnetv3.weights"} <= at_once("fbnetv3.registry")


@pytest.mark.parametrize("folder", ["fbnetv3_zoo", "search", "tests", "benchmarks"])
def test_nobody_imports_a_folder_by_its_name(folder: str) -> None:
    # Both would succeed from the root, and give a second copy of every class.
    paths = [p for p in (ROOT / folder).rglob("*.py") if not p.is_symlink()]
    assert paths
    for path in paths:
        for entry in imports(path, "somewhere"):
            assert entry.module.partition(".")[0] not in ("fbnetv3_zoo", "search"), path


@pytest.mark.parametrize("module", IMPORTS)
def test_inside_a_folder_imports_are_relative(module: str) -> None:
    package = module.rpartition(".")[0]
    for entry in IMPORTS[module]:
        assert entry.level <= 1, f"{module} climbs out of its folder for {entry.module}"
        if entry.level == 0 and entry.module.startswith("fbnetv3"):
            inside = entry.module.startswith("fbnetv3.search")
            assert inside != (package == "fbnetv3.search"), f"{module} imports {entry.module}"


def test_the_search_uses_only_these_files_of_the_zoo() -> None:
    used = {
        (module, entry.module)
        for module, entries in IMPORTS.items()
        for entry in entries
        if module.startswith("fbnetv3.search.")
        and entry.level == 0
        and entry.module.startswith("fbnetv3.")
        and entry.module.split(".")[1] not in SEARCH_USES
    }
    assert used == set()


def test_the_zoo_knows_the_search_only_where_the_command_line_lends_it_commands() -> None:
    used = {
        (module, entry.module if entry.module in FOLDERS else entry.module.rpartition(".")[0])
        for module, entries in IMPORTS.items()
        for entry in entries
        if not module.startswith("fbnetv3.search.") and entry.module.startswith("fbnetv3.search")
    }
    assert used == ZOO_USES_SEARCH
    assert not any(name.startswith("fbnetv3.search") for name in at_once("fbnetv3.cli"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_other_than_these(room: str) -> None:
    files = {own(entry.module) for entry in IMPORTS[f"fbnetv3.{room}"]} - {None}
    assert {short(str(file)) for file in files} <= ROOMS[room]


def test_no_two_files_import_each_other_at_once() -> None:
    for module in IMPORTS:
        assert module not in at_once(module), f"{module} imports itself through others"


@pytest.mark.parametrize(
    ("library", "package", "file"),
    [
        (library, package, file)
        for library, table in (("torch", TORCH_FREE), ("numpy", NUMPY_FREE))
        for package, files in table.items()
        for file in files.split()
    ],
)
def test_these_files_do_without(library: str, package: str, file: str) -> None:
    assert library not in at_once(f"{package}.{file}")


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
    }
    assert hasty == set()


def test_nothing_of_ours_is_pickled() -> None:
    for folder in FOLDERS.values():
        for path in folder.glob("*.py"):
            calls = {
                ast.unparse(node.func)
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
            }
            assert not calls & {"pickle.dump", "pickle.dumps", "pickle.load", "pickle.loads"}, path
            assert "torch.load" not in calls, path
            # Detectron2 reads no other file than torch's; what is in it are tensors and words.
            assert "torch.save" not in calls or path.stem == "detectron2_weights", path


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


@pytest.mark.parametrize("code", ["import fbnetv3", LOOK_UPS, "import fbnetv3.cli"])
def test_looking_things_up_loads_no_large_library(code: str) -> None:
    loaded = loaded_after(code)
    assert "fbnetv3" in loaded
    assert not loaded & ({"torch", "numpy", "PIL"} | (SLOW - {"typer"}) | set(OPTIONAL))
    if code == "import fbnetv3":
        assert {name for name in loaded if name.startswith("fbnetv3.")} == set()


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


def test_a_benchmark_is_named_as_it_can_be_started() -> None:
    pages = [ROOT / "README.md", ROOT / "MODEL_CARD.md", *(ROOT / "docs").rglob("*.md")]
    pages += [*(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "benchmarks").glob("*.py")]
    named = {
        (how, name)
        for page in pages
        for how, name in re.findall(r"python (-m benchmarks\.|benchmarks/)(\w+)", page.read_text())
    }
    assert len(named) > 20
    for how, name in named:
        path = ROOT / "benchmarks" / f"{name}.py"
        assert path.is_file(), f"{how}{name}"
        # Started by its path, a script does not find its neighbours.
        alone = not any(entry.module.startswith("benchmarks") for entry in imports(path, "x"))
        assert alone or how.startswith("-m"), f"python {how}{name}.py"
