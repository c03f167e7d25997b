"""Settings of twin delayed deep deterministic policy gradient (Fujimoto et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from rl.configs.algorithm_config import ActionKind, AlgorithmConfig, EnvRunnersConfig, MetricsConfig
from rl.configs.base import config
from rl.configs.kinds import AtLeastOne, NotNegative, Positive
from rl.configs.replay import PRIORITY_DEFAULTS, Share, replay_problems
from rl.errors import Problem

if TYPE_CHECKING:
    from rl.algorithms.td3 import TD3

__all__ = ["TD3Config"]

Deviation = Annotated[float, Field(ge=0)]

TARGET_NOISE_CLIP = 0.5


@config
class TD3Config(AlgorithmConfig):
    """Every setting of a TD3 run; the defaults are those of Stable-Baselines3."""

    name: ClassVar[str] = "td3"
    algorithm_path: ClassVar[str] = "rl.algorithms.td3:TD3"
    supported_actions: ClassVar[frozenset[ActionKind]] = frozenset({"box"})
    bounded_actions: ClassVar[bool] = True
    can_overlap: ClassVar[bool] = True

    env_runners: EnvRunnersConfig = EnvRunnersConfig(num=1, envs_per_runner=1)
    metrics: MetricsConfig = MetricsConfig(interval=200)
    learning_rate: Positive = 1e-3
    hidden_sizes: tuple[AtLeastOne, ...] = (400, 300)
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
    policy_delay: AtLeastOne = 2
    """Updates of the critics for one of the policy."""
    target_update_interval: AtLeastOne = 2
    """Updates between two moves of the target networks towards the networks."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """How far the target networks move: 1 all the way, a copy."""
    prioritized: bool = False
    """Draw transitions by their last error (arXiv:1511.05952) instead of evenly."""
    priority_alpha: Share = PRIORITY_DEFAULTS["priority_alpha"]
    """How much the error counts in a draw: 0 nothing, 1 in proportion."""
    priority_beta: Share = PRIORITY_DEFAULTS["priority_beta"]
    """How far uneven draws are corrected at first; rises linearly to 1 over total_steps."""
    exploration_noise: Deviation = 0.1
    """Standard deviation of the noise on actions while training, in units of [-1, 1]."""
    target_noise: Deviation = 0.2
    """Standard deviation of the noise on the action that makes the target, likewise."""
    target_noise_clip: Positive = TARGET_NOISE_CLIP
    """Largest noise on the action that makes the target."""

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together."""
        yield from super().problems()
        yield from replay_problems(self)
        yield from self.learners.enough_rows("batch_size", self.batch_size)
        if self.target_noise == 0 and self.target_noise_clip != TARGET_NOISE_CLIP:
            yield Problem(
                "target_noise_clip",
                f"{self.target_noise_clip} has no effect while target_noise is 0; write a"
                " target_noise, or leave it out",
            )

    def build(self) -> TD3:
        """Imports TD3 and makes it ready to train. Close it, or use it in a `with` block."""
        return cast("TD3", super().build())
