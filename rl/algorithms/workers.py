"""Whether a run needs worker processes, and those begun early; imports next to nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rl.core.runtime import nursery
from rl.core.runtime.resources import available_cpus

if TYPE_CHECKING:
    from rl.configs.algorithm_config import AlgorithmConfig

__all__ = ["MODULES", "begin_workers", "choose_engine", "workers_begun"]

MODULES = (
    "rl.env_runners.env_runner",
    "rl.core.models.numpy_mlp",
    "rl.core.models.numpy_policy",
    "rl.core.models.numpy_memory",
)
"""What runners need whose policies act in numpy. Others have torch besides, and a forkserver with
it."""


def choose_engine(config: AlgorithmConfig) -> str:
    """The engine asked for; `auto` takes processes where parts of the run work side by side."""
    if config.runtime.engine != "auto":
        return config.runtime.engine
    if config.learners.num > 0:
        return "process"
    side_by_side = config.env_runners.num > 1 or config.env_runners.overlap
    return "process" if side_by_side and available_cpus() > 1 else "inline"


def begin_workers(config: AlgorithmConfig) -> None:
    """Starts what workers will be born from, where the run has some; it is not waited for."""
    if choose_engine(config) == "process":
        nursery.begin(MODULES)


def workers_begun(config: AlgorithmConfig) -> contextlib.AbstractContextManager[None]:
    """As `begin_workers`; ends at the end what no runtime has taken."""
    if choose_engine(config) == "process":
        return nursery.begun(MODULES)
    return contextlib.nullcontext()
