"""Settings of soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from rl.configs.algorithm_config import ActionKind, AlgorithmConfig, EnvRunnersConfig, MetricsConfig
from rl.configs.base import config
from rl.configs.describe import Words
from rl.configs.kinds import AtLeastOne, NotNegative, Positive
from rl.configs.replay import PRIORITY_DEFAULTS, Share, replay_problems
from rl.errors import Problem

if TYPE_CHECKING:
    from rl.algorithms.sac import SAC

__all__ = ["SACConfig"]

AUTO = "auto"


def _number(value: object) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _entropy_coefficient(value: object) -> float | str:
    number = _number(value)
    if number is not None and number >= 0:
        return number
    if isinstance(value, str) and value.startswith(AUTO):
        first = _number(value.removeprefix(f"{AUTO}_"))
        if value == AUTO or (first is not None and first > 0):
            return value
    raise PydanticCustomError("entropy_coefficient", "not an entropy coefficient")


def _target_entropy(value: object) -> float | str:
    number = _number(value)
    if number is not None:
        return number
    if value == AUTO:
        return AUTO
    raise PydanticCustomError("target_entropy", "not an entropy")


EntropyCoefficient = Annotated[
    float | str,
    PlainValidator(_entropy_coefficient),
    Words("a number of at least 0, or auto, or auto_0.1 to begin with 0.1"),
]
TargetEntropy = Annotated[float | str, PlainValidator(_target_entropy), Words("a number or auto")]


@config
class SACConfig(AlgorithmConfig):
    """Every setting of a SAC run; the defaults are those of Stable-Baselines3."""

    name: ClassVar[str] = "sac"
    algorithm_path: ClassVar[str] = "rl.algorithms.sac:SAC"
    supported_actions: ClassVar[frozenset[ActionKind]] = frozenset({"box", "discrete"})
    bounded_actions: ClassVar[bool] = True
    can_overlap: ClassVar[bool] = True

    env_runners: EnvRunnersConfig = EnvRunnersConfig(num=1, envs_per_runner=1)
    metrics: MetricsConfig = MetricsConfig(interval=200)
    hidden_sizes: tuple[AtLeastOne, ...] = (256, 256)
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "relu"
    rollout_length: AtLeastOne = 1
    """Steps of each environment between two rounds of updates."""
    buffer_size: AtLeastOne = 1_000_000
    """Latest transitions that are kept, of all environments together."""
    batch_size: AtLeastOne = 256
    """Transitions in one update."""
    learning_starts: NotNegative = 100
    """Environment steps with evenly drawn actions before the first update."""
    updates_per_step: Positive = 1.0
    """Updates for each environment step after learning_starts; fractions add up."""
    n_step: AtLeastOne = 1
    """Rewards summed before the value of a successor stands for the rest."""
    target_update_interval: AtLeastOne = 1
    """Updates between two moves of the target critics towards the critics."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """How far the target critics move: 1 all the way, a copy."""
    prioritized: bool = False
    """Draw transitions by their last error (arXiv:1511.05952) instead of evenly."""
    priority_alpha: Share = PRIORITY_DEFAULTS["priority_alpha"]
    """How much the error counts in a draw: 0 nothing, 1 in proportion."""
    priority_beta: Share = PRIORITY_DEFAULTS["priority_beta"]
    """How far uneven draws are corrected at first; rises linearly to 1 over total_steps."""
    ent_coef: EntropyCoefficient = AUTO
    """Worth of entropy beside reward: a number, or auto to learn it (auto_0.1: from 0.1)."""
    target_entropy: TargetEntropy = AUTO
    """Entropy that ent_coef auto keeps, in nats of actions in [-1, 1]; auto: minus their number,
    for discrete actions 0.89 of the largest."""

    @property
    def first_ent_coef(self) -> float:
        """The coefficient at the start of the run."""
        if isinstance(self.ent_coef, str):
            return float(self.ent_coef.removeprefix(AUTO).removeprefix("_") or 1)
        return self.ent_coef

    @property
    def learns_ent_coef(self) -> bool:
        """Whether the coefficient is learnt."""
        return isinstance(self.ent_coef, str)

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together."""
        yield from super().problems()
        yield from replay_problems(self)
        yield from self.learners.enough_rows("batch_size", self.batch_size)
        if not self.learns_ent_coef and self.target_entropy != AUTO:
            yield Problem(
                "target_entropy",
                f"{self.target_entropy} has no effect while ent_coef is {self.ent_coef}; write"
                " ent_coef: auto, or leave it out",
            )

    def build(self) -> SAC:
        """Imports SAC and makes it ready to train. Close it, or use it in a `with` block."""
        return cast("SAC", super().build())
