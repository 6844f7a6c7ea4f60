"""Every public exception of a package derives from the package's root, whose docstring draws the tree."""

import ast
import builtins
from typing import Final

import pytest

from tests.support.processes import ROOT

ROOTS: Final = {
    "contract": "Refusal",
    "worker": "WorkerError",
    "producer": "ProducerError",
    "captionmill": "CaptionmillError",
    "model_prep": "ConversionError",
    "demo": None,
    "bench": "PeerError",
}
"""Package → its root; None for a package without exceptions of its own."""


def classes(package: str) -> dict[str, ast.ClassDef]:
    """Name → class, of all modules of a package; read, as some modules do things when they are imported."""
    modules = (ast.parse(path.read_text()) for path in sorted((ROOT / package).rglob("*.py")))
    return {node.name: node for tree in modules for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def ancestors(name: str, known: dict[str, ast.ClassDef]) -> set[str]:
    """The names of a class and of all that it derives from, as far as the package defines them."""
    bases = [ast.unparse(base) for base in known[name].bases] if name in known else []
    return {name}.union(*(ancestors(base, known) for base in bases))


def is_exception(names: set[str]) -> bool:
    """Whether a class with these ancestors is one: built-in ones, and others' by the end of their name."""
    kinds = [getattr(builtins, name, None) for name in names]
    built_in = any(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    return built_in or any(name.endswith(("Error", "Exception")) for name in names)


def exceptions(package: str) -> dict[str, set[str]]:
    """Public exception → its ancestors."""
    known = classes(package)
    found = {name: ancestors(name, known) for name in known if not name.startswith("_")}
    return {name: names for name, names in found.items() if is_exception(names)}


@pytest.mark.parametrize("package", ROOTS)
def test_an_exception_derives_from_its_packages_root(package: str) -> None:
    strays = {name for name, names in exceptions(package).items() if ROOTS[package] not in names}
    assert strays == set()


@pytest.mark.parametrize("package", [one for one, root in ROOTS.items() if root])
def test_the_root_draws_the_tree(package: str) -> None:
    root = ROOTS[package]
    assert root is not None
    drawn = ast.get_docstring(classes(package)[root]) or ""
    missing = {name for name in exceptions(package) if name != root and name not in drawn}
    assert missing == set()


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= ROOTS.keys()
