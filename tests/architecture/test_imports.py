"""What imports cost and show: no torch before it is needed, and exactly the public names."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rl

ROOT = Path(__file__).parents[2]
ALGORITHM_PARTS = {
    "__init__",
    "algorithm",
    "beside",
    "bottleneck",
    "engines",
    "registry",
    "results",
    "saving",
    "snapshot",
    "stopping",
    "training",
    "trials",
    "videos",
    "workers",
}
LIGHT = [
    "rl",
    "rl.algorithms.dqn",
    "rl.algorithms.ppo",
    "rl.algorithms.sac",
    "rl.algorithms.td3",
    "rl.cli.main",
    "rl.configs",
    "rl.core.data.rollout",
    "rl.core.data.spaces",
    "rl.core.models.policy",
    "rl.core.records.checkpoint_store",
    "rl.core.records.metrics",
    "rl.core.records.run_directory",
    "rl.core.runtime",
    "rl.env_runners",
]


def loaded_by(statement: str) -> set[str]:
    """The modules a fresh interpreter has after a statement."""
    program = f"import sys; {statement}; print(' '.join(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return set(answer.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_torch_is_not_imported_before_it_is_needed(module: str) -> None:
    assert "torch" not in loaded_by(f"import {module}")


@pytest.mark.parametrize("module", ["rl", "rl.configs", "rl.cli.main"])
def test_what_help_needs_imports_no_heavy_library(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint({"gymnasium", "numpy", "tensorboard"})


def test_torch_would_be_seen() -> None:
    assert "torch" in loaded_by("import rl.core.models.modules")


def test_public_names_are_sorted_and_there() -> None:
    assert len(set(rl.__all__)) == len(rl.__all__)
    # As ruff sorts: constants, then classes, then the rest.
    assert sorted(rl.__all__, key=rank) == list(rl.__all__)
    for name in rl.__all__:
        assert getattr(rl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'PPOConfg'"):
        rl.PPOConfg  # noqa: B018


def rank(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_nothing_else_is_public() -> None:
    """Names bound by importing submodules are modules; every other one is promised or private."""
    loaded = importlib.import_module("rl")
    public = {
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and getattr(value, "__name__", "").partition(".")[0] != "rl"
    }
    assert public - set(rl.__all__) <= {"annotations", "importlib", "TYPE_CHECKING"}


def test_every_algorithm_stands_in_the_independence_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = [item for item in contracts if item["name"].startswith("algorithms do not know")]
    listed = {name.strip(" ()").rpartition(".")[2] for name in contract["layers"][0].split("|")}
    files = {path.stem for path in (ROOT / "rl" / "algorithms").glob("*.py")}
    assert files - ALGORITHM_PARTS <= listed
