"""The repository holds nothing of a machine, and its lists of dependencies agree."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Set
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rl

ROOT = Path(__file__).parents[2]
PARTS = ["rl", "tests", "examples", "benchmarks", "deploy", "docs", ".ci"]
MACHINE_PATH = re.compile(r"(?<![\w.}/~:-])/(?:home|root|work|opt|mnt|Users)/\w")
IMPORT_OF = {
    "opencv-python-headless": "cv2",
    "ale-py": "ale_py",
    "imageio-ffmpeg": "imageio_ffmpeg",
    "pyyaml": "yaml",
}
OF_DEVELOPERS = {"bench", "dev"}
"""Extras that no user installs."""
PARTS_OF_PYDANTIC = {"annotated_types", "pydantic_core"}


def text_files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name != "LICENSE")
    for part in PARTS:
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def requirements(without: Set[str] = frozenset()) -> tuple[list[Requirement], list[Requirement]]:
    """Those of the core, and those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    return (
        [Requirement(line) for line in project["dependencies"]],
        [Requirement(line) for extra, lines in extras if extra not in without for line in lines],
    )


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_no_file_names_a_path_of_a_machine() -> None:
    found = []
    for path in text_files():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}: {line}" for line in lines if MACHINE_PATH.search(line)
        ]
    assert found == []


@pytest.mark.parametrize("top", ["home", "opt", "Users"])
def test_a_path_of_a_machine_is_told_from_others(top: str) -> None:
    assert MACHINE_PATH.search(f"cd /{top}/anna")
    assert MACHINE_PATH.search(f"'/{top}/x'")
    assert not MACHINE_PATH.search(f"docs/{top}/x")
    assert not MACHINE_PATH.search(f"https://example.org/{top}/x")


def test_the_lock_file_holds_exact_versions_and_nothing_else() -> None:
    pins = constraints()
    assert pins["torch"] == "2.13.0"
    for name, version in pins.items():
        assert name == canonicalize_name(name)
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{name}=={version}"


def test_every_locked_version_lies_in_its_range() -> None:
    core, extras = requirements()
    pins = constraints()
    missing = {canonicalize_name(item.name) for item in core} - pins.keys()
    assert missing == set()
    for item in core + extras:
        version = pins.get(canonicalize_name(item.name))
        assert version is None or item.specifier.contains(version), f"{item} has {version}"


def test_every_imported_library_is_a_dependency() -> None:
    core, extras = requirements(without=OF_DEVELOPERS)
    known = PARTS_OF_PYDANTIC | {IMPORT_OF.get(item.name, item.name) for item in core + extras}
    imported: dict[str, str] = {}
    for path in (ROOT / "rl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            imported |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    third_party = imported.keys() - sys.stdlib_module_names - {"rl"}
    assert "torch" in third_party
    assert {name: imported[name] for name in third_party - known} == {}


def test_the_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    stated = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'__version__ = "{rl.__version__}"' in stated
