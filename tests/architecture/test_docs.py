"""What the pages promise is there."""

import re
from pathlib import Path

import pytest

from rl.algorithms.registry import algorithm_names, config_class
from rl.configs.describe import setting_paths

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def names_of_the_first_column() -> set[str]:
    lines = (ROOT / "docs" / "names.md").read_text("utf-8").splitlines()
    return {match[1] for line in lines if (match := re.match(r"\| `([a-z_.]+)`", line))}


def test_the_table_of_names_knows_every_setting_and_no_other() -> None:
    settings = {path for name in algorithm_names() for path, _ in setting_paths(config_class(name))}
    assert names_of_the_first_column() == settings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_make_target_that_the_pages_name_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        name
        for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
        for line in re.findall(
            r"`make ([a-z -]+)`|^make ([a-z -]+?)(?:  |$)", page.read_text(), re.M
        )
        for name in "".join(line).split()
    }
    assert {"train", "test", "check"} <= named
    assert named <= targets
