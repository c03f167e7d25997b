"""LearnerGroup: the face of learning, whether it happens here or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.learning.learner import ConfigT, Learner, Metrics
from rl.core.learning.threads import LearningThreads
from rl.core.models.plain import PlainNetwork
from rl.core.models.threads import torch_threads_if_loaded

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["LearnerGroup"]


class LearnerGroup:
    """Learning in the driver: every call runs on one Learner."""

    def __init__(
        self, make_learner: Callable[[], Learner[ConfigT]], threads: LearningThreads
    ) -> None:
        """Makes the learner, calling `make_learner` once."""
        self._threads = threads
        with torch_threads_if_loaded(1):  # the first weights are the same whatever the number
            self._learner = make_learner()
        self._computing = False

    @property
    def network(self) -> PlainNetwork | Module:
        """What acts, live; read it, do not keep it."""
        return self._learner.network

    @property
    def engine(self) -> str:
        """What computes gradients: `torch` or `numpy`."""
        return self._learner.engine

    @property
    def engine_obstacles(self) -> tuple[str, ...]:
        """Why numpy cannot learn this run, in words; empty where it can."""
        return self._learner.engine_obstacles

    @property
    def reads_on_device(self) -> bool:
        """See `Learner.reads_on_device`."""
        return self._learner.reads_on_device

    def use_engine(self, name: str) -> None:
        """See `Learner.use_engine`."""
        self._learner.use_engine(name)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Sets the threads of learning for a block, so that calls in it need not."""
        if self._computing:
            yield
            return
        with self._threads.set_for(self.engine):
            self._computing = True
            try:
                yield
            finally:
                self._computing = False

    def update(self, rollouts: Sequence[Rollout], env_steps: int) -> Metrics:
        """See `Learner.learn`."""
        # Numbers that overflow are looked for after the update, not warned of in between.
        with self.computing(), np.errstate(all="ignore"):
            return self._learner.learn(rollouts, env_steps)

    def get_weights(self, again: bool = False) -> Weights:
        """The newest weights under the next number, or under the last one `again`."""
        return self._learner.get_weights(again)

    def get_state(self) -> dict[str, Array]:
        """See `Learner.get_state`."""
        return self._learner.get_state()

    def set_state(self, state: dict[str, Array]) -> None:
        """See `Learner.set_state`."""
        self._learner.set_state(state)

    def health(self) -> dict[str, float]:
        """The `learners/` metrics: none, for nothing here can die by itself."""
        return {}

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        """See `Learner.get_memory`."""
        return self._learner.get_memory(known)

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        """See `Learner.set_memory`."""
        self._learner.set_memory(memory)
