"""The public test kit: checks for what people write themselves, and tasks with known answers.

Names are imported when they are first used: checking an environment needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl.testing.algorithms import check_algorithm as check_algorithm
    from rl.testing.environments import check_env as check_env
    from rl.testing.modules import check_module as check_module
    from rl.testing.runtimes import check_runtime as check_runtime

_HOMES = {
    "check_algorithm": "rl.testing.algorithms",
    "check_env": "rl.testing.environments",
    "check_module": "rl.testing.modules",
    "check_runtime": "rl.testing.runtimes",
}

__all__ = ["check_algorithm", "check_env", "check_module", "check_runtime"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
