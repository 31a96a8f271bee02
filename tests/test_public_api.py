"""The public faces: `__all__` of both packages, sorted, complete, documented, typed."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fbnetv3
from fbnetv3 import search
from tests.shell import COMMANDS_OF

PACKAGES = (fbnetv3, search)
# What design and issues promise to a reader of the three journeys.
PROMISED = {
    fbnetv3: frozenset(
        {"Arch", "Classifier", "FBNetV3", "OnnxClassifier", "Preprocess", "Weights", "__version__"}
        | {
            "build",
            "class_names",
            "count",
            "create",
            "find",
            "flops",
            "from_pretrained",
            "get_arch",
        }
        | {"get_weights", "list_images", "list_models", "list_weights", "open_image", "optimize"}
        | {"push_to_hub", "register", "register_timm", "save_pretrained"}
        | {"FBNetV3Error", "FetchError"}
    ),
    search: frozenset(
        {"Gene", "Layout", "Limit", "LocalEngine", "Objective", "Predictor", "Recipe", "Space"}
        | {"Store", "TableObjective", "TrainConfig", "TrainObjective", "copy_answers", "costs"}
        | {"create_search", "evaluate", "evolve", "get_recipe", "get_space", "open_images"}
        | {"run_search", "train", "two_step", "write_csv", "write_report"}
    ),
}
NAMES = [(package, name) for package in PACKAGES for name in package.__all__]


def folder(package: ModuleType) -> Path:
    assert package.__file__ is not None
    return Path(package.__file__).parent


def documented_parts(name: str, value: Any) -> dict[str, Any]:
    """Returns a public object and, of a class, its own public methods and properties."""
    parts = {name: value}
    if inspect.isclass(value):
        for key, member in vars(value).items():
            inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not key.startswith("_") and (inspect.isfunction(inner) or inspect.isclass(inner)):
                parts[f"{name}.{key}"] = inner
    return parts


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_sorted_and_all_that_is_promised(package: ModuleType) -> None:
    assert package.__all__ == sorted(set(package.__all__))
    assert set(package.__all__) >= PROMISED[package]
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_name_is_what_its_file_defines(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    assert value is getattr(package, name)
    if name == "__version__":
        assert value.count(".") >= 2
        return
    assert value.__name__ == name
    # `count` of `counts`: were they named alike, importing the file would hide the name.
    assert not (folder(package) / f"{name}.py").exists()
    assert not (folder(package) / name).exists(), f"{name} is a room"
    assert value.__module__ == f"{package.__name__}.{package._HOMES[name]}"


@pytest.mark.parametrize(("package", "name"), [n for n in NAMES if n[1] != "__version__"])
def test_a_name_and_its_methods_are_documented_and_typed(package: ModuleType, name: str) -> None:
    for part, value in documented_parts(name, getattr(package, name)).items():
        assert inspect.getdoc(value), f"{part} has no docstring"
        assert len(str(inspect.getdoc(value)).split()) >= 3, f"{part} says too little"
        if inspect.isfunction(value):
            hints = value.__annotations__
            needed = [p for p in inspect.signature(value).parameters if p != "self"]
            assert {*needed, "return"} <= set(hints), f"{part} is not wholly typed"


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names_in_the_same_files(package: ModuleType) -> None:
    tree = ast.parse((folder(package) / "__init__.py").read_text())
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(guard.test) == "TYPE_CHECKING"
    seen = {}
    for node in guard.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` checkers take it for private"
            seen[alias.name] = node.module
    assert seen == package._HOMES


def test_the_package_says_that_it_is_typed() -> None:
    assert (folder(fbnetv3) / "py.typed").is_file()


@pytest.mark.parametrize(
    ("package", "name", "here"),
    [
        (fbnetv3, "create_model", r"create\(NAME\)"),
        (fbnetv3, "get_model", r"create\(NAME\)"),
        (fbnetv3, "fbnetv3_a", r"create\(NAME\)"),
        (fbnetv3, "FBNetV3_A_Weights", r"create\(NAME, pretrained=True\)"),
        (fbnetv3, "train", "the command `fbnetv3 train`, or fbnetv3.search.training.train"),
        (fbnetv3, "AutoModelForImageClassification", r"from_pretrained\(REPO\)"),
        (search, "create_study", r"run\(space, train, ...\), or Study"),
        (search, "tune", r"run\(space"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(package: Any, name: str, here: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; use {here}"):
        getattr(package, name)


def test_what_such_a_hint_names_exists() -> None:
    for package in (fbnetv3, search):
        for hint in package._ELSEWHERE.values():
            for name in re.findall(r"(?<![\w.])(\w+)\(", hint):
                assert name in package.__all__
            for module in re.findall(r"or (fbnetv3[\w.]+)$", hint):
                assert importlib.util.find_spec(module) is not None
            for command in re.findall(r"`fbnetv3 (\w+)`", hint):
                assert command in COMMANDS_OF["fbnetv3"]


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'creat'; did you mean 'create'"):
        _ = fbnetv3.creat
    with pytest.raises(AttributeError, match=r"module 'fbnetv3' has no attribute 'nonsense'$"):
        _ = fbnetv3.nonsense
    with pytest.raises(AttributeError, match="'open_imges'; did you mean 'open_images'"):
        _ = search.open_imges
    assert not hasattr(fbnetv3, "np")
