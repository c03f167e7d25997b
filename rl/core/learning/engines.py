"""Learning engines: torch, which defines every loss, and two that know its gradient by hand.

`numpy` and `compiled` differ in who passes through the network: numpy, layer by layer, or
`rl.core.kernels`, at about twice the speed. `learners.engine: auto` takes `compiled` where the
algorithm has an analytic gradient for all of a run's settings, `numpy` where in addition the
kernels cannot be had, `torch` elsewhere; what stood in the way is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rl.configs.references import name_of
from rl.core.kernels.library import kernels_obstacle
from rl.core.learning.analytic_mlp import ACTIVATIONS
from rl.core.models.modules import Module
from rl.errors import UsageError

__all__ = ["LearningEngine", "choose_learning_engine", "engine_can", "network_obstacles"]

LearningEngine = Literal["torch", "compiled", "numpy"]


def choose_learning_engine(asked: str, obstacles: Sequence[str]) -> LearningEngine:
    """The engine of a run.

    Args:
        asked: `learners.engine`.
        obstacles: What of the run has no analytic gradient, in words.

    Raises:
        UsageError: Another than torch was asked for and cannot do it.
    """
    preferred: Sequence[LearningEngine] = ("compiled", "numpy", "torch")
    if asked == "auto":
        return next(engine for engine in preferred if engine_can(engine, obstacles))
    engine = next(engine for engine in preferred if engine == asked)
    if not engine_can(engine, obstacles):
        reasons = [*obstacles]
        missing = kernels_obstacle()
        if engine == "compiled" and missing:
            reasons.append(missing)
        raise UsageError(
            f"learners.engine {asked!r} cannot learn this run: {'; '.join(reasons)}; write 'auto'"
            " or 'torch', or change what stands in the way"
        )
    return engine


def engine_can(engine: str, obstacles: Sequence[str]) -> bool:
    """Whether an engine learns a run with these obstacles to analytic gradients, here."""
    if engine == "torch":
        return True
    return not obstacles and (engine == "numpy" or kernels_obstacle() is None)


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
