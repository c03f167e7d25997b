"""Which placement of a run's environments is the fastest here: short trainings of each, in turn.

Every turn trains a fresh algorithm for its share of the time and counts what comes after the
warm-up. Turns go through the candidates forwards, then backwards, so that a machine that gets
slower meanwhile favours none.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl.algorithms.bottleneck import TimeSpent
from rl.configs.algorithm_config import AlgorithmConfig, CheckpointsConfig, EvaluationConfig
from rl.errors import ConfigError

__all__ = ["Measured", "Placement", "as_fast", "as_measured", "measure", "placements"]

TURNS = 3
WARM_UP = 0.2
"""Part of a turn's time that is trained before it counts; one iteration at least."""
ALIKE, ALIKE_ONCE = 0.05, 0.10
"""Speeds this close are not told apart, the second where each was measured once."""
FOREVER = 10**15
"""Environment steps that no turn takes: the budget of the run does not end it."""
PATIENCE_S = 2.0
"""For environments to close once a turn is interrupted."""


@dataclass(frozen=True)
class Placement:
    """Where the environments of a run live."""

    runners: int
    envs_per_runner: int
    engine: str
    """inline or process."""

    def __str__(self) -> str:
        return f"{self.runners} x {self.envs_per_runner}, {self.engine}"

    @property
    def environments(self) -> int:
        """Of all runners together."""
        return self.runners * self.envs_per_runner

    @property
    def flags(self) -> str:
        """What makes `train` place them so."""
        return (
            f"--env-runners.num {self.runners} --env-runners.envs-per-runner"
            f" {self.envs_per_runner} --runtime.engine {self.engine}"
        )

    @property
    def effort(self) -> tuple[bool, int]:
        """The less, the simpler: fewer processes, fewer runners."""
        return self.engine != "inline", self.runners

    def of(self, config: AlgorithmConfig) -> AlgorithmConfig:
        """The config, so placed."""
        placed = config.with_env_runners(num=self.runners, envs_per_runner=self.envs_per_runner)
        return placed.with_runtime(engine=self.engine)  # type: ignore[arg-type]


@dataclass
class Measured:
    """What the turns of a placement came to."""

    placement: Placement
    speeds: list[float] = field(default_factory=list)
    """Environment steps per second, a turn each."""
    spent: TimeSpent = field(default_factory=TimeSpent)

    @property
    def speed(self) -> float:
        """Median of the turns, in environment steps per second."""
        return statistics.median(self.speeds)


def placements(config: AlgorithmConfig, cores: int, *, vary: bool = False) -> list[Placement]:
    """What is worth a try, the simplest first.

    The environments together are as many as the config's, in as many runners as there are cores at
    most, or as the config has. An engine that the config names is the only one. Inline, several
    runners only make smaller batches: there it is one, or what the config says.

    Args:
        config: Of the run.
        cores: That this process may use.
        vary: Also half, twice and four times as many environments, which learn something else.
    """
    own, asked = config.env_runners.num, config.runtime.engine
    engines = ("inline", "process") if asked == "auto" else (asked,)
    if asked == "auto" and cores == 1 and config.learners.num == 0:
        engines = ("inline",)
    found = {
        placement
        for total in _totals(config.num_environments, vary=vary)
        for placement in _splits(total, own, cores, engines)
        if _possible(placement.of(config))
    }
    same = config.num_environments
    return sorted(found, key=lambda p: (p.environments != same, p.environments, p.effort))


def _totals(own: int, *, vary: bool) -> list[int]:
    more = [total for total in (own // 2, 2 * own, 4 * own) if total]
    return [own, *more] if vary else [own]


def _splits(total: int, own: int, cores: int, engines: Sequence[str]) -> Iterator[Placement]:
    for runners in range(1, total + 1):
        if total % runners == 0 and (runners <= cores or runners == own):
            for engine in engines:
                if engine == "process" or runners in (1, own):
                    yield Placement(runners, total // runners, engine)


def _possible(config: AlgorithmConfig) -> bool:
    try:
        config.checked()
    except ConfigError:
        return False
    return True


def as_measured(config: AlgorithmConfig) -> AlgorithmConfig:
    """The config as it is trained here: nothing evaluated or kept, and learning starts early."""
    changes: dict[str, Any] = {
        "evaluation": EvaluationConfig(),
        "checkpoints": CheckpointsConfig(),
    }
    if hasattr(config, "learning_starts") and hasattr(config, "batch_size"):
        changes["learning_starts"] = min(config.learning_starts, 2 * config.batch_size)
    return dataclasses.replace(config, **changes)


def measure(
    config: AlgorithmConfig,
    candidates: Sequence[Placement],
    seconds: float,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measured]:
    """Trains every candidate for about `seconds` in all; longer where iterations take long.

    Each is measured three times, or less often where a turn of all took longer than its share.

    Args:
        config: Of the run, as `as_measured` has it.
        candidates: From `placements`.
        seconds: In all.
        tell: Is told what is measured now.
        clock: Seconds that only grow.

    Raises:
        RLError: What ended a training.
    """
    found = [Measured(placement) for placement in candidates]
    share = seconds / (TURNS * len(found))
    end = clock() + seconds
    for turn in range(TURNS):
        began = clock()
        for at, one in enumerate(found if turn % 2 == 0 else found[::-1]):
            tell(f"{turn * len(found) + at + 1}/{TURNS * len(found)}: {one.placement}")
            _train(one, config, share, clock)
        took = clock() - began
        if clock() + took / 2 > end:
            break
    return found


def _train(
    measured: Measured, config: AlgorithmConfig, seconds: float, clock: Callable[[], float]
) -> None:
    """One turn: at least an iteration to warm up, and one that counts."""
    began = clock()
    algorithm = measured.placement.of(config).build()
    patience = PATIENCE_S
    try:
        built, starts = clock(), getattr(config, "learning_starts", 0)

        def warm() -> bool:
            return algorithm.env_steps > starts and clock() - built >= WARM_UP * seconds

        while True:
            algorithm.train_within(FOREVER, warm)  # which ends a long row of metrics early
            if warm():
                break
        before, counted = algorithm.env_steps, clock()

        def over() -> bool:
            now = clock()
            return now - began >= seconds and now - counted >= seconds / 2

        while True:
            last = clock()
            result = algorithm.train_within(FOREVER, over)
            now = clock()
            measured.spent.add(result.metrics, now - last)
            if over():
                break
        measured.speeds.append((algorithm.env_steps - before) / (now - counted))
        patience = 10 * PATIENCE_S
    finally:
        algorithm.close(patience)


def as_fast(found: Sequence[Measured]) -> list[Measured]:
    """The fastest and those that cannot be told from it, the simplest first.

    They are those whose range of turns meets the fastest one's, and those at most 5 % slower; 10 %
    where each was measured once.
    """
    best = max(found, key=lambda one: one.speed)
    alike = ALIKE if len(best.speeds) > 1 else ALIKE_ONCE
    near = [
        one
        for one in found
        if max(one.speeds) >= min(best.speeds) or one.speed >= (1 - alike) * best.speed
    ]
    return sorted(near, key=lambda one: one.placement.effort)
