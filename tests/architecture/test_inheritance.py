"""Inheritance is at most two deep: a reader opens few files to learn what happens next."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "rl"
MAX_DEPTH = 2


def bases_of(package: Path) -> dict[str, set[str]]:
    """Every class of the package with the names of its bases, as written."""
    bases: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {base_name(base) for base in node.bases}
                bases.setdefault(node.name, set()).update(names - {node.name})
    return bases


def base_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return base_name(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def depth(name: str, bases: dict[str, set[str]]) -> int:
    """How many classes of the package stand above this one."""
    inside = [base for base in bases[name] if base in bases]
    return 1 + max(depth(base, bases) for base in inside) if inside else 0


def is_error(name: str, bases: dict[str, set[str]]) -> bool:
    return name in {"Exception", "BaseException"} or any(
        is_error(base, bases) for base in bases.get(name, ())
    )


def too_deep(package: Path) -> dict[str, int]:
    bases = bases_of(package)
    depths = {name: depth(name, bases) for name in bases if not is_error(name, bases)}
    return {name: value for name, value in depths.items() if value > MAX_DEPTH}


def test_no_class_has_more_than_two_of_ours_above_it() -> None:
    assert len(bases_of(PACKAGE)) > 20
    assert too_deep(PACKAGE) == {}


@pytest.mark.parametrize(("root", "found"), [("object", {"D": 3}), ("Exception", {})])
def test_a_deeper_class_is_found_and_errors_are_not_counted(
    tmp_path: Path, root: str, found: dict[str, int]
) -> None:
    (tmp_path / "one.py").write_text(f"class A({root}): ...\nclass B(A): ...\nclass C(B): ...\n")
    (tmp_path / "two.py").write_text("import one\nclass D(one.C[int]): ...\n")
    assert too_deep(tmp_path) == found
