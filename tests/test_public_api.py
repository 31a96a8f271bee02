"""The public face: `fbnetv3.__all__`, sorted, complete, documented, typed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import fbnetv3

PACKAGE = Path(fbnetv3.__file__).parent
TREE = ast.parse((PACKAGE / "__init__.py").read_text())
# What design and issues promise to a reader of the three journeys.
PROMISED = frozenset(
    {"Arch", "Classifier", "FBNetV3", "OnnxClassifier", "Preprocess", "Weights", "__version__"}
    | {"build", "class_names", "count", "create", "find", "flops", "from_pretrained", "get_arch"}
    | {"get_weights", "list_images", "list_models", "list_weights", "open_image", "optimize"}
    | {"push_to_hub", "register", "register_timm", "save_pretrained"}
    | {"FBNetV3Error", "FetchError"}
)


def documented_parts(name: str, value: Any) -> dict[str, Any]:
    """Returns a public object and, of a class, its own public methods and properties."""
    parts = {name: value}
    if inspect.isclass(value):
        for key, member in vars(value).items():
            inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not key.startswith("_") and (inspect.isfunction(inner) or inspect.isclass(inner)):
                parts[f"{name}.{key}"] = inner
    return parts


def test_names_are_sorted_and_all_that_is_promised() -> None:
    assert fbnetv3.__all__ == sorted(set(fbnetv3.__all__))
    assert set(fbnetv3.__all__) >= PROMISED
    assert set(fbnetv3.__all__) <= set(dir(fbnetv3))


@pytest.mark.parametrize("name", fbnetv3.__all__)
def test_a_name_is_what_its_file_defines(name: str) -> None:
    value = getattr(fbnetv3, name)
    assert value is getattr(fbnetv3, name)
    if name == "__version__":
        assert value.count(".") >= 2
        return
    assert value.__name__ == name
    # `count` of `counts`: were they named alike, importing the file would hide the name.
    assert not (PACKAGE / f"{name}.py").exists()
    assert value.__module__ == f"fbnetv3.{fbnetv3._HOMES[name]}"


@pytest.mark.parametrize("name", [name for name in fbnetv3.__all__ if name != "__version__"])
def test_a_name_and_its_methods_are_documented_and_typed(name: str) -> None:
    for part, value in documented_parts(name, getattr(fbnetv3, name)).items():
        assert inspect.getdoc(value), f"{part} has no docstring"
        assert len(str(inspect.getdoc(value)).split()) >= 3, f"{part} says too little"
        if inspect.isfunction(value):
            hints = value.__annotations__
            needed = [p for p in inspect.signature(value).parameters if p != "self"]
            assert {*needed, "return"} <= set(hints), f"{part} is not wholly typed"


def test_type_checkers_see_the_same_names_in_the_same_files() -> None:
    guard = next(node for node in TREE.body if isinstance(node, ast.If))
    assert ast.unparse(guard.test) == "TYPE_CHECKING"
    seen = {}
    for node in guard.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "without `as` checkers take it for private"
            seen[alias.name] = node.module
    assert seen == fbnetv3._HOMES
    assert (PACKAGE / "py.typed").is_file()


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'create_model'; did you mean 'create'"):
        _ = fbnetv3.create_model
    with pytest.raises(AttributeError, match=r"module 'fbnetv3' has no attribute 'nonsense'$"):
        _ = fbnetv3.nonsense
    assert not hasattr(fbnetv3, "np")
