"""Files and functions stay short enough to read; one that cannot is listed here with its reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file, nested ones too, with its length."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            name = f"{path.relative_to(PACKAGE).as_posix()}:{node.name}"
            yield name, node.end_lineno - node.lineno + 1


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert lines
    too_long = {name: count for name, count in lines.items() if count > MAX_FILE_LINES}
    assert too_long.keys() == LONG_FILES.keys(), too_long


def test_no_function_is_longer_than_a_screen() -> None:
    lines = dict(item for path in PACKAGE.rglob("*.py") for item in functions(path))
    assert lines
    too_long = {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES}
    assert too_long.keys() == LONG_FUNCTIONS.keys(), too_long
