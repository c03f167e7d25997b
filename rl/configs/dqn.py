"""Settings of deep Q-learning (Mnih et al. 2015, Nature 518)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field

from rl.configs.algorithm_config import ActionKind, AlgorithmConfig, EnvRunnersConfig, MetricsConfig
from rl.configs.base import config
from rl.configs.kinds import AtLeastOne, NotNegative, Positive
from rl.configs.memory import MEMORY_DEFAULTS, MemoryKind, memory_problems
from rl.configs.replay import PRIORITY_DEFAULTS, Share, idle_problems, replay_problems
from rl.errors import Problem

if TYPE_CHECKING:
    from rl.algorithms.dqn import DQN

__all__ = ["DQNConfig"]

ATOM_DEFAULTS: dict[str, Any] = {"num_atoms": 51, "v_min": None, "v_max": None}
NOISY_DEFAULTS = {"noisy_sigma": 0.5}
RECURRENT_DEFAULTS = {**MEMORY_DEFAULTS, "burn_in": 8}
EXPLORATION_DEFAULTS = {
    "exploration_initial": 1.0,
    "exploration_final": 0.05,
    "exploration_fraction": 0.1,
}


@config
class DQNConfig(AlgorithmConfig):
    """Every setting of a DQN run; the defaults are those of Stable-Baselines3."""

    name: ClassVar[str] = "dqn"
    algorithm_path: ClassVar[str] = "rl.algorithms.dqn:DQN"
    supported_actions: ClassVar[frozenset[ActionKind]] = frozenset({"discrete"})
    can_overlap: ClassVar[bool] = True

    env_runners: EnvRunnersConfig = EnvRunnersConfig(num=1, envs_per_runner=1)
    metrics: MetricsConfig = MetricsConfig(interval=200)
    learning_rate: Positive = 1e-4
    activation: Literal["tanh", "relu", "elu", "gelu", "silu"] = "relu"
    max_grad_norm: Positive | None = 10.0
    rollout_length: AtLeastOne = 4
    """Steps of each environment between two rounds of updates."""
    buffer_size: AtLeastOne = 1_000_000
    """Latest transitions that are kept, of all environments together."""
    batch_size: AtLeastOne = 32
    """Transitions in one update."""
    learning_starts: NotNegative = 100
    """Environment steps with random actions before the first update."""
    updates_per_step: Positive = 0.25
    """Updates for each environment step after learning_starts; fractions add up."""
    n_step: AtLeastOne = 1
    """Rewards summed before the value of a successor stands for the rest."""
    target_update_interval: AtLeastOne = 10_000
    """Environment steps between two moves of the target network towards the network."""
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How far the target network moves: 1 all the way, a copy."""
    prioritized: bool = False
    """Draw transitions by their last error (arXiv:1511.05952) instead of evenly."""
    priority_alpha: Share = PRIORITY_DEFAULTS["priority_alpha"]
    """How much the error counts in a draw: 0 nothing, 1 in proportion."""
    priority_beta: Share = PRIORITY_DEFAULTS["priority_beta"]
    """How far uneven draws are corrected at first; rises linearly to 1 over total_steps."""
    double: bool = False
    """Let the network choose the action that the target network values (arXiv:1509.06461)."""
    dueling: bool = False
    """Give state value and advantages a last layer each (arXiv:1511.06581)."""
    distributional: bool = False
    """Learn the distribution of an action's return, not its mean alone (C51, arXiv:1707.06887)."""
    num_atoms: Annotated[int, Field(ge=2)] = ATOM_DEFAULTS["num_atoms"]
    """Returns that a distribution gives probabilities to, evenly spaced from v_min to v_max."""
    v_min: float | None = ATOM_DEFAULTS["v_min"]
    """Lowest discounted return that can be told apart; must be given where distributional is."""
    v_max: float | None = ATOM_DEFAULTS["v_max"]
    """Highest discounted return that can be told apart; must be given where distributional is."""
    noisy: bool = False
    """Explore by learnt noise on the network's weights (arXiv:1706.10295), not by chance."""
    noisy_sigma: Positive = NOISY_DEFAULTS["noisy_sigma"]
    """Initial scale of that noise: sigma_0 of the paper."""
    memory: MemoryKind | None = None
    """Lets the policy remember what it saw earlier in the episode; none: it sees the present."""
    memory_size: AtLeastOne = RECURRENT_DEFAULTS["memory_size"]
    """Units of the memory."""
    sequence_length: AtLeastOne = RECURRENT_DEFAULTS["sequence_length"]
    """Steps through which the gradient goes back; a batch is of whole sequences, cut where their
    episode ends."""
    burn_in: NotNegative = RECURRENT_DEFAULTS["burn_in"]
    """Steps before a sequence from which the network works out what it would remember by now."""
    exploration_initial: Share = EXPLORATION_DEFAULTS["exploration_initial"]
    """Probability of a random action at the start."""
    exploration_final: Share = EXPLORATION_DEFAULTS["exploration_final"]
    """Probability of a random action once it has fallen."""
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = EXPLORATION_DEFAULTS[
        "exploration_fraction"
    ]
    """Part of total_steps over which it falls, linearly."""

    @property
    def atoms(self) -> tuple[int, float, float]:
        """Number, lowest and highest of the returns told apart; one without `distributional`."""
        if self.distributional and self.v_min is not None and self.v_max is not None:
            return self.num_atoms, self.v_min, self.v_max
        return 1, 0.0, 0.0

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together."""
        yield from super().problems()
        yield from replay_problems(self)
        yield from memory_problems(self, "batch_size", defaults=RECURRENT_DEFAULTS)
        yield from idle_problems(self, "distributional", ATOM_DEFAULTS)
        yield from idle_problems(self, "noisy", NOISY_DEFAULTS)
        yield from idle_problems(self, "noisy", EXPLORATION_DEFAULTS, effective=False)
        if self.distributional:
            yield from self._range_problems()

    def _range_problems(self) -> Iterator[Problem]:
        for setting, which in (("v_min", "lowest"), ("v_max", "highest")):
            if getattr(self, setting) is None:
                yield Problem(
                    setting,
                    f"missing: distributional needs the {which} discounted return that an episode"
                    " can have, and no default would fit every environment; write it",
                )
        if self.v_min is not None and self.v_max is not None and self.v_min >= self.v_max:
            yield Problem("v_min", f"{self.v_min} is not below v_max {self.v_max}; write a range")

    def build(self) -> DQN:
        """Imports DQN and makes it ready to train. Close it, or use it in a `with` block."""
        return cast("DQN", super().build())
