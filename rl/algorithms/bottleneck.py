"""Where the time of a run went, and what to change to go faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rl.configs.algorithm_config import AlgorithmConfig

__all__ = ["TimeSpent"]

PARTS = {
    "environment": "perf/env_share",
    "inference": "perf/inference_share",
    "learning": "perf/learn_share",
    "waiting": "perf/wait_share",
}
"""What the time of an iteration goes into: the metric that says how much of it."""


class TimeSpent:
    """Adds up the `perf/` metrics of a run's iterations."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def add(self, metrics: Mapping[str, float], seconds: float) -> None:
        """Counts an iteration that took so long."""
        for part, metric in PARTS.items():
            self._seconds[part] += metrics.get(metric, 0.0) * seconds

    def shares(self) -> dict[str, float]:
        """What went into each part, of 1; empty of a run that took no time."""
        total = sum(self._seconds.values())
        return {part: seconds / total for part, seconds in self._seconds.items() if total > 0}

    def lines(
        self, config: AlgorithmConfig, engine: str, obstacles: Sequence[str], cores: int
    ) -> list[str]:
        """What to tell the user, most useful last; nothing of a run that took no time.

        Args:
            config: Settings of the run.
            engine: That learnt.
            obstacles: Why it was not the faster one.
            cores: Of the machine that this process may use.
        """
        shares = self.shares()
        if not shares:
            return []
        told = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
        bound = max(shares, key=lambda part: shares[part])
        advise = ADVICE[bound]
        return [f"time: {told}", f"bound by {bound}: {advise(config, engine, obstacles, cores)}"]


Advice = Callable[[Any, str, Sequence[str], int], str]


def _environment(config: Any, engine: str, obstacles: Sequence[str], cores: int) -> str:
    runners = config.env_runners
    if runners.num < cores:
        return (
            f"sample on more processes, --env-runners.num {cores} (with fewer environments each,"
            " --env-runners.envs-per-runner, the batch stays the same)"
        )
    if runners.vectorization == "single":
        return "--env-runners.vectorization auto, where the environment has vector code of its own"
    return (
        "all cores sample; a faster environment, or more machines (--runtime.engine ray)"
        + _meanwhile(config, cores)
    )


def _inference(config: Any, engine: str, obstacles: Sequence[str], cores: int) -> str:
    runners = config.env_runners
    if runners.num < cores:
        return f"act on more processes, --env-runners.num {cores}, or with a smaller network"
    more = 2 * runners.envs_per_runner
    return (
        f"act for more environments at once, --env-runners.envs-per-runner {more} (a shorter"
        " --rollout-length keeps the batch), or with a smaller network"
    )


def _learning(config: Any, engine: str, obstacles: Sequence[str], cores: int) -> str:
    device = config.learners.device
    less = _less_learning(config) + _meanwhile(config, cores)
    if device != "cpu":
        return less
    if engine == "torch" and obstacles and config.learners.engine == "auto":
        return (
            f"the faster compiled engine cannot do this run ({'; '.join(obstacles)}); without that,"
            f" or on a GPU (--learners.device auto), or by {less}"
        )
    if engine == "torch" and config.learners.engine == "torch":
        return "--learners.engine auto takes a faster engine where it can"
    return less


def _less_learning(config: Any) -> str:
    if hasattr(config, "num_epochs"):
        return (
            f"fewer passes over each batch (--num-epochs, now {config.num_epochs}) or larger"
            f" minibatches (--minibatch-size, now {config.minibatch_size}); both change what is"
            " learnt"
        )
    if hasattr(config, "updates_per_step"):
        return (
            f"fewer updates (--updates-per-step, now {config.updates_per_step:g}), which changes"
            " what is learnt"
        )
    return "less learning for each step"


def _meanwhile(config: Any, cores: int) -> str:
    """To go on with: what lets runners and learner work at the same time, where they do not."""
    if config.env_runners.overlap or not config.can_overlap or cores == 1:
        return ""
    return "; or sample while the learner learns (--pipeline), by weights one update older"


def _waiting(config: Any, engine: str, obstacles: Sequence[str], cores: int) -> str:
    return (
        f"most went into neither; tell less often (--metrics.interval, now"
        f" {config.metrics.interval})"
    )


ADVICE: Mapping[str, Advice] = {
    "environment": _environment,
    "inference": _inference,
    "learning": _learning,
    "waiting": _waiting,
}
