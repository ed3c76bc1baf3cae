"""The rules of the house, as far as a test can see them."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import wsiprep

ROOT = Path(wsiprep.__file__).parent
MODULES = sorted(
    m.name for m in pkgutil.walk_packages([str(ROOT)], "wsiprep.") if m.name != "wsiprep.__main__"
)
PACKAGES = ["wsiprep", *[m for m in MODULES if (ROOT.parent / m.replace(".", "/")).is_dir()]]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_every_public_thing_says_what_it_is(name):
    path = ROOT.parent / (name.replace(".", "/") + ".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name}"


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_exist_and_hide_no_module(name):
    package = importlib.import_module(name)
    modules = {m.name for m in pkgutil.iter_modules(package.__path__)}
    names = getattr(package, "__all__", [])
    assert not modules & set(names), "a name of a module is replaced once the module is imported"
    for public in names:
        assert getattr(package, public) is not None


def test_every_plugin_has_a_contract_test():
    """A reader, segmenter or encoder family comes with a test that subclasses its contract."""
    from wsiprep.encoders.load import families
    from wsiprep.slide.open import readers
    from wsiprep.tissue.detect import segmenters

    text = {
        path: path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*")
        if path.suffix == ".py"
    }  # fmt: skip
    for registry, contract in (
        (readers, "SlideContract"),
        (segmenters, "SegmenterContract"),
        (families, "EncoderContract"),
    ):
        for plugin in registry.builtin_names():
            assert any(contract in content and plugin in content for content in text.values()), (
                f"{registry.kind} {plugin} has no {contract} test"
            )


def test_errors_have_documented_exit_codes():
    from wsiprep.core import errors

    for name in errors.__all__:
        assert getattr(errors, name).exit_code in {1, 2, 3, 70, 130}
        assert name in (errors.__doc__ or "")
