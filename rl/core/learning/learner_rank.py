"""LearnerRank: one learner of a group, as an actor in a process of its own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.lazy import torch
from rl.core.learning.learner import ConfigT, Learner, Metrics
from rl.core.learning.ranks import GroupBroken, ProcessRanks, Ranks
from rl.core.learning.threads import LearningThreads
from rl.core.models.plain import PlainNetwork
from rl.core.models.threads import torch_threads

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["Heritage", "LearnerRank", "Report"]


@dataclass(frozen=True)
class Report:
    """What an update came to."""

    metrics: Metrics
    """The same on every rank."""
    num_updates: int
    """Optimizer steps of the run so far."""
    digest: str | None
    """Of everything that is the same on every rank; None where no check was due."""
    state: dict[str, Array] | None
    """Where the next update starts: of rank 0, unless a replay would have to go with it."""


@dataclass(frozen=True)
class Heritage:
    """All that makes a new rank stand where another does."""

    state: dict[str, Array]
    memory: Mapping[str, Part]
    stored: int
    """Rollouts of the update at hand that are in the memory already."""
    number: int | None
    """Of the update at hand, to be made once more."""


class LearnerRank(Generic[ConfigT]):
    """Holds a Learner and its place in the group.

    An update can be made once more, as if it had never begun: parameters, optimizer, statistics and
    generators go back to where it started. Only what it stored in a replay stays there, and is not
    stored again.
    """

    def __init__(
        self,
        make_learner: Callable[[], Learner[ConfigT]],
        rank: int,
        size: int,
        threads: LearningThreads,
        check_interval: int,
        on_progress: Callable[[], object],
    ) -> None:
        """Makes the learner. It takes part once it has begun, or inherited, and joined.

        Args:
            make_learner: Builds the same learner on every rank.
            rank: In [0, size).
            size: Of the group.
            threads: Of an update.
            check_interval: Optimizer steps between digests.
            on_progress: Called now and then within an update: a sign of life.
        """
        self._rank, self._size = rank, size
        self._threads = threads
        self._check_interval = check_interval
        self._on_progress = on_progress
        with torch_threads(1):
            self._learner = make_learner()
            self._remembers = bool(self._learner.get_memory())
        self._ranks: Ranks | None = None
        self._meeting: Path | None = None  # of rank 0, until all have come
        self._knows = False  # where the others stand
        self._start: dict[str, Array] | None = None  # where update `_number` began
        self._number: int | None = None

    def begin(self, state: dict[str, Array] | None) -> None:
        """Stands from now on where the run begins, or at a state that all ranks are given."""
        if state is not None:
            self._learner.set_state(state)
        self._number = self._start = None
        self._knows = True

    def _where_all_stand(self) -> Learner[ConfigT]:
        """The learner; raises `GroupBroken` where it was made anew and stands at the beginning."""
        if not self._knows:
            raise GroupBroken(f"learner {self._rank} does not stand where the others do")
        return self._learner

    def engines(self) -> tuple[str, tuple[str, ...]]:
        """The learning engine, and what keeps it from analytic gradients."""
        learner = self._where_all_stand()
        return learner.engine, learner.engine_obstacles

    def use_engine(self, name: str) -> None:
        """See `Learner.use_engine`."""
        self._where_all_stand().use_engine(name)

    def open_meeting(self) -> Path:
        """A file for one meeting, in a fresh directory that only this user can enter."""
        self._close_meeting()
        self._meeting = Path(tempfile.mkdtemp(prefix="rl-"))
        return self._meeting / "ranks"

    def _close_meeting(self) -> None:
        if self._meeting is not None:
            shutil.rmtree(self._meeting, ignore_errors=True)
            self._meeting = None

    def join(self, meeting: Path, timeout: float, engine: str) -> None:
        """Enters the group; waits until all ranks have called this.

        Args:
            meeting: A file for this group alone.
            timeout: Seconds after which a rank that does not answer is given up.
            engine: The learning engine of the run; empty: the config says it.
        """
        self.leave()
        self._where_all_stand().use_engine(engine)
        if self._size == 1:
            self._ranks = Ranks(self._on_progress)
        else:
            place = self._rank, self._size, self._learner.device
            if self._learner.device.type == "cuda":
                torch.cuda.set_device(self._learner.device)
            try:
                self._ranks = ProcessRanks(*place, meeting, timeout, self._on_progress)
            finally:
                self._close_meeting()  # all are there
        self._learner.join(self._ranks)

    def leave(self) -> None:
        """Leaves the group, whose others notice at once."""
        if self._ranks is not None:
            self._ranks.leave()
            self._ranks = None

    def update(self, number: int, env_steps: int, *rollouts: Rollout) -> Report:
        """`Learner.learn`, all ranks together.

        Args:
            number: Of the update in the run; one that failed is made again under its number.
            env_steps: Environment steps taken before the rollouts.
            *rollouts: One of each runner, in their order.

        Raises:
            GroupBroken: Another rank is gone, or this one has not joined.
            Diverged: See `Learner.learn`.
        """
        if self._ranks is None:
            raise GroupBroken(f"learner {self._rank} has not met the others")
        before = self._learner.num_updates
        self._begin(number)
        try:
            with self._threads.set_for(self._learner.engine):
                metrics = self._learner.learn(rollouts, env_steps)
        except BaseException:
            self.leave()  # or the others would wait for this rank
            raise
        now = self._learner.num_updates
        due = self._size > 1 and now // self._check_interval > before // self._check_interval
        keeps = self._rank == 0 and not self._remembers
        state = self._learner.get_state() if due or keeps else None
        digest = self._digest(state) if due and state is not None else None
        return Report(metrics, now, digest, state if keeps else None)

    def step_back(self, number: int | None) -> bool:
        """Leaves the group; goes back to where update `number` began, if it has begun it.

        Returns:
            Whether it knows where that is; a learner that was made anew does not.
        """
        self.leave()
        if self._start is not None and number == self._number:
            self._learner.set_state(self._start)
            if self._learner.experience is not None:
                self._learner.experience.rewind()
        return self._knows

    def heritage(self) -> Heritage:
        """What a new rank needs."""
        learner = self._where_all_stand()
        experience = learner.experience
        stored = 0 if experience is None else experience.stored
        memory = {name: part for name, part in learner.get_memory().items() if part is not None}
        return Heritage(learner.get_state(), memory, stored, self._number)

    def inherit(self, heritage: Heritage) -> None:
        """Stands from now on where another rank does."""
        self._learner.set_state(heritage.state)
        self._learner.set_memory(heritage.memory)
        if self._learner.experience is not None:
            self._learner.experience.stored = heritage.stored
        self._number, self._start = heritage.number, None
        self._knows = True

    def get_weights(self, version: int) -> Weights | None:
        """Of rank 0 what acting needs, under this number; the others note the number."""
        learner = self._where_all_stand()
        learner.version = version
        return learner.get_weights(again=True) if self._rank == 0 else None

    def get_network(self) -> PlainNetwork | Module:
        """A copy of what acts, on the CPU."""
        return self._where_all_stand().network.frozen()

    def get_state(self) -> dict[str, Array]:
        """See `Learner.get_state`."""
        return self._where_all_stand().get_state()

    def set_state(self, state: dict[str, Array]) -> int:
        """See `Learner.set_state`; returns the version of the weights."""
        self._where_all_stand().set_state(state)
        self._number = self._start = None
        return self._learner.version

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        """See `Learner.get_memory`."""
        return self._where_all_stand().get_memory(known)

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        """See `Learner.set_memory`."""
        self._where_all_stand().set_memory(memory)

    def _begin(self, number: int) -> None:
        again = number == self._number
        self._number = number
        if self._size > 1:  # alone, there is nobody who could fail it
            self._start = self._learner.get_state()
            if self._learner.experience is not None:
                self._learner.experience.mark(again)

    def _digest(self, state: dict[str, Array]) -> str:
        sums = hashlib.blake2b(digest_size=8)
        for name in sorted(state):
            sums.update(name.encode())
            sums.update(state[name].tobytes())
        experience: Any = self._learner.experience
        if experience is not None:
            sums.update(repr(experience.replay.position()).encode())
        return sums.hexdigest()
