"""A whole run: iterations, evaluations, checkpoints and records, from a config to a result."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from rl.algorithms.algorithm import Algorithm, TrainResult
from rl.algorithms.snapshot import portable
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.yaml_io import to_yaml
from rl.core.learning.learner_group import LearnerGroup
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.episodes import EpisodeLog
from rl.core.records.metrics import MetricsLogger
from rl.core.records.run_directory import RunDirectory
from rl.env_runners.evaluation import Evaluation
from rl.errors import RLError, UsageError

__all__ = ["Interrupted", "Reporter", "RunResult", "train_run"]


class Reporter(Protocol):
    """Who is told how a run goes: the console, a log, a test."""

    def start(self, config: AlgorithmConfig, run_dir: Path, steps_done: int) -> None: ...
    def progress(self, result: TrainResult) -> None: ...
    def evaluation(self, evaluation: Evaluation) -> None: ...
    def message(self, text: str) -> None: ...
    def finish(self, result: RunResult) -> None: ...


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    env_steps: int
    total_steps: int
    seconds: float
    """Wall time of this stretch, evaluations and checkpoints included."""
    steps_per_second: float
    """Of this stretch, training alone."""
    evaluation: Evaluation
    """Of the final policy."""
    episode_return_mean: float
    """Over the last training episodes."""
    checkpoint: Path


class Interrupted(KeyboardInterrupt):
    """The run was asked to end early; its last iteration was finished and checkpointed."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(f"{signal.Signals(signal_number).name}: checkpoint {checkpoint}")
        self.signal_number = signal_number
        self.checkpoint = checkpoint

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


def train_run(
    config: AlgorithmConfig, run: RunDirectory, *, resume: bool, reporter: Reporter
) -> RunResult:
    """Trains until the budget is spent, and leaves the run directory complete.

    Raises:
        RLError: What ended the run; `failure.json` then says so.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
    """
    try:
        with config.build() as algorithm:
            return _Run(algorithm, run, reporter).execute(resume)
    except Exception as error:
        run.write_failure(_failure(error))
        raise


def _failure(error: Exception) -> dict[str, object]:
    return {
        "error": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code if isinstance(error, RLError) else 1,
        "traceback": "".join(traceback.format_exception(error)),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


class _Run:
    """One stretch of a run, from start or resume to its end."""

    def __init__(self, algorithm: Algorithm[Any], run: RunDirectory, reporter: Reporter) -> None:
        self.algorithm = algorithm
        self.config = algorithm.config
        self.run = run
        self.reporter = reporter
        self.store = CheckpointStore(run.checkpoints, self.config.checkpoints.keep)
        self.logger = MetricsLogger(run.path)
        self.saved_at: tuple[int, Path] | None = None
        self.began = time.perf_counter()

    def execute(self, resume: bool) -> RunResult:
        """Trains, evaluates, saves; closes the logs whatever happens."""
        if resume:
            self._resume()
        self.episodes = EpisodeLog(self.run.episodes_file)
        self.first_step = self.algorithm.env_steps
        self.reporter.start(self.config, self.run.path, self.first_step)
        self.reporter.message(_engine_line(self.algorithm.learners))
        self.logger.log_text("config", f"```yaml\n{to_yaml(portable(self.config))}```", 0)
        self.logger.log_hparams(_scalars(self.config))
        try:
            with _stop_requests() as stop:
                result, seconds = self._train(stop)
            return self._complete(result, seconds)
        finally:
            self.logger.close()
            self.episodes.close()

    def _resume(self) -> None:
        self.store.sweep()
        checkpoint, skipped = self.store.newest_valid()
        for reason in skipped:
            self.reporter.message(f"warning: {reason}; an older checkpoint is used instead")
        lost = self.algorithm.restore(checkpoint)
        if lost:
            self.reporter.message(
                f"warning: {lost} steps of unfinished episodes could not be played again: the run"
                " goes on, but not as if it had never stopped"
            )
        done, wanted = self.algorithm.env_steps, self.config.total_steps
        if done >= wanted:
            raise UsageError(
                f"{self.run.path}: already at {done} of {wanted} environment steps; raise"
                " --total-steps to go on"
            )
        self.logger.cut_back(done)
        self.saved_at = (done, checkpoint.path)

    def _train(self, stop: Callable[[], int | None]) -> tuple[TrainResult, float]:
        config, algorithm = self.config, self.algorithm
        seconds, result = 0.0, None
        while result is None or algorithm.env_steps < config.total_steps:
            before, began = algorithm.env_steps, time.perf_counter()
            result = algorithm.train_within(config.total_steps, lambda: stop() is not None)
            seconds += time.perf_counter() - began
            self.logger.log(result.metrics, result.env_steps)
            for at, episode in result.episodes:
                self.episodes.append(at, episode.episode_return, episode.length, episode.seconds)
            self.episodes.flush()
            self.reporter.progress(result)
            ended = algorithm.env_steps >= config.total_steps
            if not ended and _due(config.evaluation.interval, before, result.env_steps):
                self._evaluate()
            if _due(config.checkpoints.interval, before, result.env_steps):
                self._save()
            received = stop()
            if received is not None and not ended:
                raise Interrupted(received, self._save())
        return result, seconds

    def _evaluate(self) -> Evaluation:
        """Tests the policy; the best so far is kept as a checkpoint."""
        evaluation = self.algorithm.evaluate()
        self.logger.log(
            {
                "eval/mean_reward": evaluation.mean,
                "eval/std_reward": evaluation.std,
                "eval/mean_ep_length": evaluation.mean_length,
            },
            evaluation.env_steps,
        )
        self.reporter.evaluation(evaluation)
        best = self.algorithm.best_return
        if best is None or evaluation.mean > best:
            self.algorithm.best_return = evaluation.mean
            self.store.mark_best(self._save())
        return evaluation

    def _save(self) -> Path:
        """Writes a checkpoint, unless there is one of this very step."""
        steps = self.algorithm.env_steps
        if self.saved_at is None or self.saved_at[0] != steps:
            self.saved_at = (steps, self.algorithm.save_to(self.store))
        return self.saved_at[1]

    def _complete(self, result: TrainResult, seconds: float) -> RunResult:
        evaluation = self._evaluate()
        checkpoint = self._save()
        self._write_policy()
        over = result.env_steps - self.config.total_steps
        self.reporter.message(
            f"took {result.env_steps} environment steps of {self.config.total_steps}: "
            + (f"{over} more, less than one fragment" if over else "exactly the budget")
        )
        outcome = RunResult(
            env_steps=result.env_steps,
            total_steps=self.config.total_steps,
            seconds=time.perf_counter() - self.began,
            steps_per_second=(result.env_steps - self.first_step) / seconds,
            evaluation=evaluation,
            episode_return_mean=result.episode_return_mean,
            checkpoint=checkpoint,
        )
        final = {"eval/mean_reward": evaluation.mean}
        if not math.isnan(result.episode_return_mean):
            final["rollout/ep_rew_mean"] = result.episode_return_mean
        self.logger.log_hparams(_scalars(self.config), final)
        self.run.write_result(_summary(outcome, self.run.path))
        self.reporter.finish(outcome)
        return outcome

    def _write_policy(self) -> None:
        """Puts `policy/` in place; an earlier stretch's makes way when the new one is whole."""
        target = self.run.policy
        fresh = target.with_name(f".policy.{os.getpid()}")
        self.algorithm.policy.save(fresh)
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)


def _engine_line(learners: LearnerGroup) -> str:
    """Which engine learns, and why where it is not the faster one."""
    line = f"learning engine: {learners.engine}"
    obstacles = learners.engine_obstacles
    return f"{line} (not numpy: {'; '.join(obstacles)})" if obstacles else line


def _summary(outcome: RunResult, run: Path) -> Mapping[str, object]:
    evaluation = outcome.evaluation
    return {
        "env_steps": outcome.env_steps,
        "total_steps": outcome.total_steps,
        "seconds": outcome.seconds,
        "steps_per_second": outcome.steps_per_second,
        "episode_return_mean": outcome.episode_return_mean,
        "evaluation": {
            "mean": evaluation.mean,
            "std": evaluation.std,
            "returns": list(evaluation.returns),
            "lengths": list(evaluation.lengths),
        },
        "checkpoint": str(outcome.checkpoint.relative_to(run)),
    }


def _due(interval: int, before: int, now: int) -> bool:
    """Whether a multiple of `interval` lies in (before, now]."""
    return interval > 0 and now // interval > before // interval


def _scalars(config: Any, prefix: str = "") -> dict[str, bool | int | float | str]:
    """Every setting of a config by its dotted name, as something HParams can show."""
    found: dict[str, bool | int | float | str] = {}
    for setting in fields(config):
        value = getattr(config, setting.name)
        name = prefix + setting.name
        if is_dataclass(value):
            found |= _scalars(value, f"{name}.")
        elif isinstance(value, bool | int | float | str):
            found[name] = value
        else:
            found[name] = str(value)
    return found


@contextmanager
def _stop_requests() -> Iterator[Callable[[], int | None]]:
    """Makes a first Ctrl-C or SIGTERM a request to end after the iteration; a second acts.

    Yields what tells the number of the signal received, if any. Outside the main thread, where
    signals cannot be handled, none is ever reported.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
