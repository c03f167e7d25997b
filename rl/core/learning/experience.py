"""What an off-policy learner remembers, draws from, and how many updates that earns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rl.configs.replay import ReplaySettings
from rl.core.data.batch import on_host
from rl.core.data.memory import check_replay_fits
from rl.core.data.prioritized import PrioritizedReplay
from rl.core.data.replay import ReplayBuffer, ReplayMark, Transitions
from rl.core.data.rollout import Rollout
from rl.core.data.spaces import Spaces
from rl.core.data.tree import Array, tree_map
from rl.core.data.windows import Windows
from rl.core.lazy import LazyModule, torch
from rl.core.learning.learner import Learner, Metrics
from rl.core.learning.schedules import linear
from rl.core.seeding import stream_seed

if TYPE_CHECKING:  # who learns with analytic gradients imports none of these
    from torch import Tensor

    from rl.core.learning import window_batch
    from rl.core.models.modules import TensorTree
    from rl.core.models.q_network import QNetwork
else:
    window_batch = LazyModule("rl.core.learning.window_batch")

__all__ = ["Experience", "ReplayBatch"]

ROUNDING = 1e-9
"""Fractions of an update may add up to one but for this."""


@dataclass(frozen=True)
class ReplayBatch:
    """M transitions of up to n steps each, on the learner's device."""

    indices: Array  # [M], where they lie in the buffer
    observations: TensorTree  # [M, *obs]
    actions: Tensor  # [M, *act]
    returns: Tensor  # [M], rewards of m <= n steps, discounted
    next_observations: TensorTree  # [M, *obs], where the m steps led
    discounts: Tensor  # [M], gamma^m, or 0 where the last step terminated
    weights: Tensor | None  # [M], importance; None where draws are even

    def features(
        self, network: QNetwork, *, states: bool = True, successors: bool = True
    ) -> tuple[Tensor, Tensor]:
        """What a network makes of states, and of successors without a graph; [M, F] each.

        What is not asked for is not computed, and empty.
        """
        nothing = self.returns.new_empty(0)
        now = network.features(self.observations) if states else nothing
        with torch.no_grad():
            return now, network.features(self.next_observations) if successors else nothing

    def columns(self) -> list[TensorTree | None]:
        """All tensors, in order; without the indices."""
        columns = [getattr(self, column.name) for column in fields(self)]
        return columns[1:]

    @classmethod
    def of(cls, columns: Sequence[Any]) -> Self:
        """A batch of what `columns` gave, that lies nowhere."""
        return cls(np.empty(0, np.int64), *columns)

    def per_draw(self, errors: Tensor) -> Tensor:
        """Errors [M] of what was drawn, from those of transitions: the same here."""
        return errors


class Experience:
    """A replay buffer, its draws, and the credit of updates that its steps have earned."""

    def __init__(self, learner: Learner[Any], config: ReplaySettings, spaces: Spaces) -> None:
        """Allocates the buffer.

        Args:
            learner: Whose it is; it scales rewards and keeps the statistics.
            config: Settings of the run.
            spaces: Of one environment.

        Raises:
            UsageError: It does not fit into the memory.
        """
        kind = PrioritizedReplay if config.prioritized else ReplayBuffer
        remembered = learner.network.memory_size
        check_replay_fits(kind, spaces, config.buffer_size, remembered)
        self._learner = learner
        self._config = config
        seed = stream_seed(config.seed, "replay")
        place = spaces, learner.num_environments, config.buffer_size, seed, remembered
        self.replay = (
            PrioritizedReplay(*place, alpha=config.priority_alpha)
            if config.prioritized
            else ReplayBuffer(*place)
        )
        self.credit = np.zeros(())  # updates earned and not yet made
        self._beta = config.priority_beta
        self.stored = 0
        """Rollouts stored since `mark`."""
        self._remembered = 0
        self._mark: ReplayMark | None = None
        self._drawn = np.empty(0, np.int64)  # the whole batch at hand, all ranks' parts
        self._lengths = (0, 0)  # of its windows; 0 where they are single transitions
        self._scale = None if learner.reward_scaler is None else learner.scaled

    def remember(self, rollout: Rollout, env_steps: int) -> None:
        """Stores the rollout [T, B] as it is; only statistics learn from it at once.

        Args:
            rollout: Of all runners, side by side.
            env_steps: Environment steps taken before it.
        """
        config, learner = self._config, self._learner
        self._beta = linear(config.priority_beta, 1.0, env_steps, config.total_steps)
        self._remembered += 1
        if self._remembered > self.stored:  # else an update is made again that had come so far
            self.replay.add(rollout)
            self.stored = self._remembered
        learner.observe_rewards(rollout)
        if config.normalize_observations:
            steps = slice(None) if rollout.valid is None else np.flatnonzero(rollout.valid)
            seen = tree_map(lambda o: o[:-1].reshape(-1, *o.shape[2:])[steps], rollout.observations)
            learner.observe(seen)

    def mark(self, again: bool = False) -> None:
        """Begins an update that `rewind` can take back; `again`: one that was taken back."""
        self._remembered = 0
        self.stored = self.stored if again else 0
        self._mark = self.replay.mark()

    def rewind(self) -> None:
        """Forgets draws and errors since `mark`; what was stored stays, and is not stored again."""
        if self._mark is not None:
            self.replay.rewind(self._mark)

    def due_updates(self, before: int, now: int) -> int:
        """Adds the credit of steps in (before, now] past learning_starts; takes whole updates."""
        learnt_from = max(0, now - max(before, self._config.learning_starts))
        earned = float(self.credit) + self._config.updates_per_step * learnt_from
        due = int(earned + ROUNDING)
        self.credit.fill(earned - due)
        return due

    def draw_arrays(self) -> tuple[Array, Transitions, Array | None]:
        """`draw` as arrays: indices, transitions, and importance weights where draws are uneven."""
        config, replay = self._config, self.replay
        self._drawn = replay.draw(config.batch_size)
        own = self._learner.ranks.part(config.batch_size)
        indices = self._drawn[own]
        found = replay.gather(indices, config.n_step, config.gamma, self._scale)
        if isinstance(replay, PrioritizedReplay):
            return indices, found, replay.weights(self._drawn, self._beta)[own]
        return indices, found, None

    def draw(self) -> ReplayBatch:
        """This rank's part of a batch of batch_size transitions: M rows of it."""
        learner = self._learner
        indices, found, weights = self.draw_arrays()
        return ReplayBatch(
            indices,
            learner.tensors(found.observations),
            learner.tensor(found.actions),
            learner.tensor(found.returns),
            learner.tensors(found.next_observations),
            learner.tensor(found.discounts),
            None if weights is None else learner.tensor(weights),
        )

    def draw_windows(self, length: int, burn_in: int) -> window_batch.WindowBatch:
        """`draw` for a network with memory: this rank's part of batch_size / length windows.

        Args:
            length: Transitions of a window at most; a rank weighs as much as it has of them.
            burn_in: Observations at most that lead up to it.
        """
        config, replay, ranks = self._config, self.replay, self._learner.ranks
        self._lengths = length, burn_in
        count = config.batch_size // length
        self._drawn = replay.draw(count)
        own = ranks.part(count)
        found = self._windows(self._drawn[own])
        if 0 < ranks.share < 1:
            whole = int(replay.window_lengths(self._drawn, self._lengths).sum())
            ranks.share = len(found.owners) / whole
        weights = None
        if isinstance(replay, PrioritizedReplay):
            weights = replay.weights(self._drawn, self._beta)[own][found.owners]
        return window_batch.WindowBatch(found, weights, self._learner.device)

    def _windows(self, indices: Array) -> Windows:
        config = self._config
        place = indices, self._lengths
        return self.replay.gather_windows(*place, config.n_step, config.gamma, self._scale)

    def batch_at_hand(self) -> dict[str, Array]:
        """The batch drawn last, of all ranks, by the names of what it is made of; indices too."""
        config = self._config
        if not len(self._drawn):
            return {}
        if self._lengths[0]:
            return {"indices": self._drawn} | named_arrays(self._windows(self._drawn))
        found = self.replay.gather(self._drawn, config.n_step, config.gamma, self._scale)
        return {"indices": self._drawn} | named_arrays(found)

    def note_errors(self, errors: Tensor | Array) -> None:
        """Makes the batch drawn last as likely as its TD errors [M] ask, where draws are uneven."""
        if isinstance(self.replay, PrioritizedReplay):
            whole = self._learner.ranks.whole(errors)
            self.replay.set_priorities(self._drawn, on_host(whole))

    def report(self, env_steps: int) -> Metrics:
        """Metrics of the buffer and the ratio of updates to steps."""
        learnt = max(1, env_steps - self._config.learning_starts)
        metrics = {
            "train/replay_size": float(len(self.replay)),
            "train/updates_per_step": self._learner.num_updates / learnt,
            "train/update_credit": float(self.credit),
        }
        if self._config.prioritized:
            metrics["train/priority_beta"] = self._beta
        return metrics


def named_arrays(found: Any) -> dict[str, Array]:
    """Every array of a dataclass by its path; what is None has none."""
    arrays: dict[str, Array] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if is_dataclass(value):
            arrays |= {f"{field.name}/{path}": array for path, array in named_arrays(value).items()}
        elif isinstance(value, dict):
            arrays |= {f"{field.name}/{path}": array for path, array in value.items()}
        elif value is not None:
            arrays[field.name] = value
    return arrays
