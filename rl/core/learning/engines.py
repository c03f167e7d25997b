"""Learning engines: torch, which defines every loss, and numpy, faster for small plain networks.

`learners.engine: auto` takes numpy where the algorithm has an analytic gradient for all of a run's
settings, torch elsewhere; what stood in the way is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rl.configs.references import name_of
from rl.core.learning.analytic_mlp import ACTIVATIONS
from rl.core.models.modules import Module
from rl.errors import UsageError

__all__ = ["LearningEngine", "choose_learning_engine", "network_obstacles"]

LearningEngine = Literal["torch", "numpy"]


def choose_learning_engine(asked: str, obstacles: Sequence[str]) -> LearningEngine:
    """The engine of a run.

    Args:
        asked: `learners.engine`.
        obstacles: What of the run the numpy engine cannot do, in words.

    Raises:
        UsageError: numpy was asked for and cannot do it.
    """
    if asked == "numpy" and obstacles:
        raise UsageError(
            f"learners.engine 'numpy' cannot learn this run: {'; '.join(obstacles)}; write 'auto'"
            " or 'torch', or change what stands in the way"
        )
    return "torch" if asked == "torch" or obstacles else "numpy"


def network_obstacles(module: Module, kind: type[Module]) -> Iterator[str]:
    """Yields why a module has no analytic gradient, if the one of `kind` does for plain MLPs."""
    if type(module) is not kind:
        yield f"the module {type(module).__name__} is not the built-in {kind.__name__}"
        return
    spec: Any = module.spec
    if spec.encoder is not None:
        yield f"the encoder {name_of(spec.encoder)} is of your own"
    if module.observation_layout.has_images:
        yield "images need convolutions"
    if spec.activation not in ACTIVATIONS:
        yield f"activation {spec.activation!r} is not one of {', '.join(ACTIVATIONS)}"
