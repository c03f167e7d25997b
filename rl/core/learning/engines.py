"""Learning engines: torch, which defines every loss, and two that know its gradient by hand.

`numpy` and `compiled` differ in who passes through the network: numpy, layer by layer, or
`rl.core.kernels`, at about twice the speed. `learners.engine: auto` takes `compiled` where the
algorithm has an analytic gradient for all of a run's settings, `numpy` where in addition the
kernels cannot be had, `torch` elsewhere; what stood in the way is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rl.configs.references import name_of
from rl.core.kernels.library import kernels_obstacle
from rl.core.learning.analytic_mlp import ACTIVATIONS
from rl.core.models.plain import PlainNetwork
from rl.errors import UsageError

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = [
    "LearningEngine",
    "choose_gpu_engine",
    "choose_learning_engine",
    "engine_can",
    "network_obstacles",
    "recording_obstacles",
]

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


def choose_gpu_engine(
    asked: str, obstacles: Sequence[str]
) -> tuple[LearningEngine, tuple[str, ...]]:
    """The engine of a run that learns on a GPU, and what to tell of it.

    There `compiled` plays torch's own gradients from CUDA graphs. `auto` takes torch.

    Args:
        asked: `learners.engine`.
        obstacles: What of the run cannot be recorded, in words.

    Raises:
        UsageError: Another than torch was asked for and cannot do it.
    """
    if asked == "torch":
        return "torch", ()
    if asked == "auto":
        able = "learners.engine compiled would play CUDA graphs"
        return "torch", (f"on a GPU auto takes torch; {'; '.join(obstacles) or able}",)
    reasons = [*obstacles] if asked == "compiled" else ["numpy does not compute on a GPU"]
    if reasons:
        raise UsageError(
            f"learners.engine {asked!r} cannot learn this run: {'; '.join(reasons)}; write 'auto'"
            " or 'torch', or change what stands in the way"
        )
    return "compiled", ()


def recording_obstacles(network: PlainNetwork | Module) -> Iterator[str]:
    """Yields why the gradients of a built-in network cannot be recorded."""
    spec: Any = network.spec
    if spec.encoder is not None:
        yield f"the encoder {name_of(spec.encoder)} is of your own"
    if network.memory_size:
        yield f"memory ({spec.memory})"


def engine_can(engine: str, obstacles: Sequence[str]) -> bool:
    """Whether an engine learns a run with these obstacles to analytic gradients, here."""
    if engine == "torch":
        return True
    return not obstacles and (engine == "numpy" or kernels_obstacle() is None)


def network_obstacles(network: PlainNetwork | Module) -> Iterator[str]:
    """Yields why a built-in network has no analytic gradient, if those of plain MLPs do."""
    spec: Any = network.spec
    if spec.encoder is not None:
        yield f"the encoder {name_of(spec.encoder)} is of your own"
    if network.observation_layout.has_images:
        yield "images need convolutions"
    if spec.activation not in ACTIVATIONS:
        yield f"activation {spec.activation!r} is not one of {', '.join(ACTIVATIONS)}"
