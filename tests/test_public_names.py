"""What `import rl` offers is there, and costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rl

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", rl.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(rl, name) is not None
    assert name in dir(rl)


def test_public_names_are_said_once() -> None:
    assert set(rl._SOURCES) == set(rl.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="PPOConfg"):
        rl.PPOConfg  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    ["import rl", "import rl; rl.PPOConfig()", "import rl.configs", "import rl.cli.main"],
)
def test_what_is_light_imports_nothing_heavy(statement: str) -> None:
    heavy = "{'torch', 'numpy', 'gymnasium'} & set(sys.modules)"
    subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; assert not {heavy}, {heavy}"],
        cwd=ROOT,
        check=True,
    )
