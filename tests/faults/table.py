"""The table in docs/reliability.md, from the marks of the tests: `python -m tests.faults.table`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->\n", "<!-- end of faults -->\n"


def rows() -> list[tuple[str, str, str]]:
    """What goes wrong, what happens, and which test shows it; in the order of the files."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    what, happens = (ast.literal_eval(argument) for argument in mark.args)
                    test = f"{path.relative_to(ROOT).as_posix()}::{getattr(node, 'name', '')}"
                    found.append((what, happens, test))
    return found


def table() -> str:
    """As Markdown."""
    lines = ["| fault | what happens | tested by |", "|---|---|---|"]
    for what, happens, test in rows():
        path, _, name = test.partition("::")
        lines.append(f"| {what} | {happens} | [`{name}`](../{path}) |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(table())
