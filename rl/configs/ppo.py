"""Settings of proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from pydantic import Field

from rl.configs.algorithm_config import AlgorithmConfig, EnvRunnersConfig
from rl.configs.base import config
from rl.configs.kinds import AtLeastOne, Positive
from rl.configs.memory import MEMORY_DEFAULTS, MemoryKind, memory_problems
from rl.errors import Problem

if TYPE_CHECKING:
    from rl.algorithms.ppo import PPO

__all__ = ["PPOConfig"]

Coefficient = Annotated[float, Field(ge=0)]


@config
class PPOConfig(AlgorithmConfig):
    """Every setting of a PPO run; the defaults are those of Stable-Baselines3."""

    name: ClassVar[str] = "ppo"
    algorithm_path: ClassVar[str] = "rl.algorithms.ppo:PPO"
    can_overlap: ClassVar[bool] = True

    env_runners: EnvRunnersConfig = EnvRunnersConfig(num=1, envs_per_runner=1)
    max_grad_norm: Positive | None = 0.5
    rollout_length: AtLeastOne = 2048
    """Steps of each environment between two updates of the policy (T)."""
    num_epochs: AtLeastOne = 10
    """Passes over the collected steps in one iteration."""
    minibatch_size: AtLeastOne = 64
    """Steps in one update; the last minibatch of a pass may be smaller."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Weight of longer returns in the advantage (arXiv:1506.02438): 0 one step, 1 all."""
    clip_range: Positive = 0.2
    """Farthest the probability ratio of an action may move from 1 and still be rewarded."""
    clip_range_final: Coefficient | None = None
    """Clip range at the end of the run, reached linearly over total_steps; none: constant."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound on the loss of bad actions that became likely (arXiv:1912.09729), 3 say; none: off."""
    value_clip_range: Positive | None = None
    """Farthest a value may move from its old estimate in one iteration; none: no limit."""
    entropy_coef: Coefficient = 0.0
    """Weight of the entropy bonus in the loss."""
    value_coef: Coefficient = 0.5
    """Weight of the value loss in the loss."""
    target_kl: Positive | None = None
    """Ends the updates of an iteration once the policy moved 1.5 times this far; none: never."""
    kl_coef: Coefficient = 0.0
    """Weight of a penalty on the divergence from the policy that sampled; 0: none."""
    kl_target: Positive | None = None
    """Divergence that kl_coef is doubled or halved towards after each iteration; none: it stays."""
    normalize_advantages: bool = True
    """Give the advantages of each minibatch mean 0 and standard deviation 1."""
    shared_torso: bool = False
    """Let policy and value share their hidden layers, and their memory."""
    memory: MemoryKind | None = None
    """Lets the policy remember what it saw earlier in the episode; none: it sees the present."""
    memory_size: AtLeastOne = MEMORY_DEFAULTS["memory_size"]
    """Units of the memory; policy and value have one each, or share it with their hidden layers."""
    sequence_length: AtLeastOne = MEMORY_DEFAULTS["sequence_length"]
    """Steps through which the gradient goes back; minibatches are of whole sequences."""
    orthogonal_init: bool = True
    """Start from orthogonal weights with the usual gains; otherwise torch's defaults."""
    log_std_init: float = 0.0
    """Logarithm of the first standard deviation of continuous actions."""
    adam_epsilon: Positive = 1e-5
    """Adam's guard against division by zero."""

    @property
    def batch_size(self) -> int:
        """Steps collected in one iteration by all environments together."""
        return self.rollout_length * self.num_environments

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together."""
        yield from super().problems()
        if self.minibatch_size > self.batch_size:
            runners = self.env_runners
            yield Problem(
                "minibatch_size",
                f"{self.minibatch_size} is more than the {self.batch_size} steps of an iteration"
                f" (rollout_length {self.rollout_length} x env_runners.num {runners.num} x"
                f" env_runners.envs_per_runner {runners.envs_per_runner}); write"
                f" {self.batch_size} or less, or collect more",
            )
        yield from memory_problems(self, "minibatch_size", "rollout_length")
        if self.kl_target is not None and self.kl_coef == 0:
            yield Problem(
                "kl_target",
                f"{self.kl_target} has no effect while kl_coef is 0; give kl_coef a first value,"
                " 0.2 say, or use target_kl, which ends an iteration early",
            )
        if self.normalize_advantages and self.minibatch_size == 1:
            yield Problem(
                "normalize_advantages",
                "minibatch_size 1 leaves nothing to normalise over: every advantage would be 0;"
                " write false, or a larger minibatch_size",
            )

    def build(self) -> PPO:
        """Imports PPO and makes it ready to train. Close it, or use it in a `with` block."""
        return cast("PPO", super().build())
