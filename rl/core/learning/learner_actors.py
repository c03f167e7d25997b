"""LearnerActors: `learners.num` learners in processes of their own, behind the group's face."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from rl.configs.algorithm_config import AlgorithmConfig
from rl.core.data.blocks import Part, Parts
from rl.core.data.rollout import Rollout
from rl.core.data.tree import Array
from rl.core.data.weights import Weights
from rl.core.learning.learner import Learner, Metrics
from rl.core.learning.learner_rank import LearnerRank, Report
from rl.core.learning.ranks import GroupBroken
from rl.core.learning.threads import LearningThreads
from rl.core.models.plain import PlainNetwork
from rl.core.runtime import ActorHandle, Future, ObjectRef, Runtime, note_progress
from rl.errors import ActorDied, ActorError, RLError, RuntimeFault

if TYPE_CHECKING:
    from rl.core.models.modules import Module

__all__ = ["LearnerActors"]

P = ParamSpec("P")
R = TypeVar("R")
Rank = LearnerRank[Any]

PATIENCE = 2.0
"""A learner is killed once it was silent for so many times `learners.timeout`: after the others
have noticed, so that they are not killed with it."""

logger = logging.getLogger(__name__)


class LearnerActors:
    """Data-parallel learners on a runtime. They survive the death of any of them.

    Every rank is given every rollout, as a reference: its data does not pass through the driver.
    When one dies, those that are left go back to where the update began, a new one takes the place
    of the dead and is given what another knows, and the update is made again.
    """

    def __init__(
        self,
        runtime: Runtime,
        make_learners: Sequence[Callable[[], Learner[Any]]],
        config: AlgorithmConfig,
        preload: tuple[str, ...],
    ) -> None:
        """Spawns them and waits until they know each other.

        Args:
            runtime: Where they live.
            make_learners: One for each rank; they differ in the device alone.
            config: Settings of the run.
            preload: Modules their processes import first.
        """
        settings = config.learners
        self._runtime = runtime
        self._timeout = settings.timeout
        self._attempts = config.runtime.max_restarts + 1
        size, threads = len(make_learners), _threads(config)
        places = runtime.place([_resources(config)] * size, "strict_pack")
        self._ranks: list[ActorHandle[Rank]] = [
            runtime.spawn(
                functools.partial(
                    LearnerRank,
                    make_learner,
                    rank,
                    size,
                    threads,
                    settings.check_interval,
                    note_progress,
                ),
                name=f"learner-{rank}",
                max_restarts=config.runtime.max_restarts,
                step_timeout=PATIENCE * settings.timeout,
                preload=preload,
                environment={"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")},
                place=places[rank],
            )
            for rank, make_learner in enumerate(make_learners)
        ]
        self._updates = 0  # calls of `update`
        self._version = 0  # of the weights published last
        self._record: dict[str, Array] | None = None  # where the ranks stand, if that is all
        self._replaceable = True  # whether `_record`, or None at first, is all
        self._weights: ObjectRef[Weights] | None = None  # of `_version`, until something is learnt
        self._engine = ""
        _answers(self._start_from_record())
        self._join()
        self._engine, self._obstacles = self._ask(LearnerRank.engines).result()
        self._network = (
            self._ask(LearnerRank.get_network).result().frozen()
        )  # results are read-only

    # -- the face of a learner group -------------------------------------------------------------

    @property
    def network(self) -> PlainNetwork | Module:
        """A copy of what acts, as it is now; read it, do not keep it."""
        weights = self._weights or self._publish()
        self._network.set_weights(weights.result())
        return self._network

    def update(self, rollouts: Sequence[Rollout | ObjectRef[Rollout]], env_steps: int) -> Metrics:
        """See `Learner.learn`, on all ranks.

        Raises:
            Diverged: See `Learner.learn`.
            RestartsExhausted: Learners died more often than they may.
            RuntimeFault: They no longer hold the same weights.
        """
        self._updates += 1
        self._weights = None
        put = self._runtime.put
        found: list[Any] = [r if isinstance(r, ObjectRef) else put(r) for r in rollouts]
        reports: list[Report] = self._together(
            self._updates, LearnerRank.update, self._updates, env_steps, *found
        )
        _check_same(reports)
        self._record = reports[0].state
        self._replaceable = self._record is not None
        return reports[0].metrics

    @property
    def engine(self) -> str:
        """What computes gradients: `torch` or `numpy`."""
        return self._engine

    @property
    def engine_obstacles(self) -> tuple[str, ...]:
        """Why numpy cannot learn this run, in words; empty where it can."""
        return self._obstacles

    def use_engine(self, name: str) -> None:
        """See `Learner.use_engine`."""
        self._together(None, LearnerRank.use_engine, name)
        self._engine, self._obstacles = self._ask(LearnerRank.engines).result()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Nothing to prepare: the learners have processes, and threads, of their own."""
        yield

    def get_weights(self, again: bool = False) -> ObjectRef[Weights]:
        """The newest weights under the next number, or under the last one `again`."""
        self._version += not again
        return self._publish()

    def get_state(self) -> dict[str, Array]:
        """See `Learner.get_state`; the same whatever the number of learners."""
        return self._ask(LearnerRank.get_state).result()

    def set_state(self, state: dict[str, Array]) -> None:
        """See `Learner.set_state`."""
        shared: Any = self._runtime.put(state)
        versions = self._together(None, LearnerRank.set_state, shared)
        self._version = versions[0]
        self._record, self._weights = state, None

    def get_memory(self, known: Collection[str] = ()) -> Parts:
        """See `Learner.get_memory`."""
        return self._ask(LearnerRank.get_memory, tuple(known)).result()

    def set_memory(self, memory: Mapping[str, Part]) -> None:
        """See `Learner.set_memory`."""
        if memory:
            shared: Any = self._runtime.put(dict(memory))
            self._together(None, LearnerRank.set_memory, shared)
            self._replaceable = False

    def health(self) -> dict[str, float]:
        """The `learners/` metrics."""
        return {"learners/restarts": float(sum(rank.restarts for rank in self._ranks))}

    # -- calls that outlive a learner ------------------------------------------------------------

    def _publish(self) -> ObjectRef[Weights]:
        for rank in self._ranks[1:]:
            rank.call(LearnerRank.get_weights, self._version)
        weights: Any = self._ask(LearnerRank.get_weights, self._version)
        self._weights = weights
        return self._weights

    def _ask(
        self, method: Callable[Concatenate[Rank, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """The answer of rank 0, once it is there."""
        for _ in range(self._attempts):
            future = self._ranks[0].call(method, *args, **kwargs)
            if _answers([future]) is not None:
                return future
            self._mend(None)
        raise _given_up(self._attempts)

    def _together(
        self,
        number: int | None,
        method: Callable[Concatenate[Rank, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """The answers of all ranks; `number` is the update they make, if it is one."""
        for _ in range(self._attempts):
            found = _answers([rank.call(method, *args, **kwargs) for rank in self._ranks])
            if found is not None:
                return found
            self._mend(number)
        raise _given_up(self._attempts)

    def _mend(self, number: int | None) -> None:
        """Makes the group whole: all stand where update `number` began, or where they are.

        When another rank dies meanwhile the next call fails, and this is done again.
        """
        knowing = [_outcome(rank.call(LearnerRank.step_back, number)) for rank in self._ranks]
        lost = [index for index, knows in enumerate(knowing) if knows is not True]
        if len(lost) < len(self._ranks):
            donor = self._ranks[knowing.index(True)]
            heritage: Any = donor.call(LearnerRank.heritage)
            given = [self._ranks[index].call(LearnerRank.inherit, heritage) for index in lost]
        else:
            given = self._start_from_record()
        if _answers(given) is not None:
            logger.warning(
                "The learners start again from their last iteration, %d of %d made anew.",
                len(lost),
                len(self._ranks),
            )
            self._join()

    def _start_from_record(self) -> list[Future[Any]]:
        if not self._replaceable:
            raise RuntimeFault(
                "all learners died, and the replay with them: the run cannot go on from here."
                " Resume it from its last checkpoint; with learners.num 2 or more one may die"
            )
        # Without a record nothing was learnt yet: they are made as they were.
        record: Any = None if self._record is None else self._runtime.put(self._record)
        return [rank.call(LearnerRank.begin, record) for rank in self._ranks]

    def _join(self) -> None:
        """Lets all meet. Whoever cannot is found out by the next call."""
        meeting: Any = self._ranks[0].call(LearnerRank.open_meeting)
        _answers(
            [
                rank.call(LearnerRank.join, meeting, self._timeout, self._engine)
                for rank in self._ranks
            ]
        )


def _answers(calls: Sequence[Future[R]]) -> list[R] | None:
    """The results of all calls once all have ended; None if a learner died or lost the others.

    Raises:
        RLError: What a learner raised by itself.
    """
    outcomes = [_outcome(call) for call in calls]
    lost = [outcome for outcome in outcomes if isinstance(outcome, ActorDied | GroupBroken)]
    for error in lost:
        logger.warning("%s", error)
    return None if lost else outcomes


def _outcome(call: Future[Any]) -> Any:
    """The result, or the error where it is the loss of a learner; other errors are raised."""
    try:
        return call.result()
    except ActorDied as error:
        return error
    except ActorError as error:
        ours = error.__cause__
        if isinstance(ours, GroupBroken):
            return ours
        if isinstance(ours, RLError):
            raise ours from ours.__cause__
        raise


def _resources(config: AlgorithmConfig) -> dict[str, float]:
    """What a learner reserves: on a cluster its threads and its GPU, nothing on this machine."""
    if config.runtime.engine != "ray":
        return {}
    gpus = {"gpu": 1.0} if config.learners.device.startswith("cuda") else {}
    return {"cpu": float(_threads(config).most), **gpus}


def _threads(config: AlgorithmConfig) -> LearningThreads:
    """Of each of several learners: one where nothing else was asked for."""
    return LearningThreads.of(config.learners, free=1)


def _check_same(reports: Sequence[Report]) -> None:
    digests = [report.digest for report in reports]
    if len(set(digests)) > 1:
        told = ", ".join(f"learner {rank} has {digest}" for rank, digest in enumerate(digests))
        raise RuntimeFault(
            f"the learners no longer hold the same weights after update {reports[0].num_updates}:"
            f" {told}. What they compute must depend on the config and the experience alone: look"
            " for random numbers that do not come from Learner.generator; or use learners.num 0"
        )


def _given_up(attempts: int) -> GroupBroken:
    return GroupBroken(
        f"the learners lost each other {attempts} times in a row; look at the warnings above, or"
        " raise learners.timeout if they are only slow"
    )
