"""A whole run: iterations, evaluations, checkpoints and records, from a config to a result."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from rl.algorithms.algorithm import CLOSE_S, Algorithm, TrainResult
from rl.algorithms.bottleneck import TimeSpent
from rl.algorithms.saving import Saves, keep_batch, resume_run
from rl.algorithms.snapshot import portable
from rl.algorithms.stopping import DEFAULT_GRACE_S, GivenUp, Interrupted, StopRequests
from rl.algorithms.videos import check_videos, record_evaluation, show_video, video_due
from rl.configs.algorithm_config import AlgorithmConfig
from rl.configs.yaml_io import to_yaml
from rl.core.data.rollout import Episode
from rl.core.kernels.library import kernels_obstacle
from rl.core.learning.learner_actors import LearnerActors
from rl.core.learning.learner_group import LearnerGroup
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.episodes import EpisodeLog
from rl.core.records.files import sweep, temporary_sibling
from rl.core.records.metrics import MetricsLogger
from rl.core.records.run_directory import RunDirectory
from rl.core.runtime.resources import available_cpus
from rl.env_runners.evaluation import Evaluation
from rl.errors import (
    ConfigError,
    Diverged,
    EnvironmentFault,
    RLError,
    RuntimeFault,
    StorageError,
    UsageError,
)

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


def train_run(
    config: AlgorithmConfig,
    run: RunDirectory,
    *,
    resume: bool,
    reporter: Reporter,
    grace: float = DEFAULT_GRACE_S,
) -> RunResult:
    """Trains until the budget is spent, and leaves the run directory complete.

    Args:
        config: Settings of the run.
        run: Its directory, locked.
        resume: Whether to go on from its newest valid checkpoint, or from the beginning where it
            has none yet.
        reporter: Who is told.
        grace: Seconds from SIGTERM to the end.

    Raises:
        RLError: What ended the run; `failure.json` then says so.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a checkpoint.
    """
    with StopRequests(grace, reporter.message) as stop:
        store = CheckpointStore(run.checkpoints, config.checkpoints.keep)
        try:
            with stop.may_give_up():
                check_videos(config)
                algorithm = config.build()
        except GivenUp:
            raise _interrupted(stop, store) from None
        except Exception as error:
            _record_failure(error, run, store, reporter)
            raise
        patience = CLOSE_S
        try:
            return _Run(algorithm, run, reporter, store, stop).execute(resume)
        except GivenUp:
            patience = 0.0
            raise _interrupted(stop, store) from None
        except Exception as error:
            _record_failure(error, run, store, reporter)
            raise
        finally:
            algorithm.close(patience)


def _interrupted(stop: StopRequests, store: CheckpointStore) -> Interrupted:
    assert stop.number is not None
    return Interrupted(stop.number, store.latest)


def _record_failure(
    error: Exception, run: RunDirectory, store: CheckpointStore, reporter: Reporter
) -> None:
    """Writes `failure.json`, unless what failed is the question rather than the run."""
    if isinstance(error, UsageError | ConfigError):
        return
    newest = store.latest
    batch = keep_batch(error, run.path, reporter.message) if isinstance(error, Diverged) else None
    record = {
        "error": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code if isinstance(error, RLError) else 1,
        "traceback": "".join(traceback.format_exception(error)),
        "checkpoint": None if newest is None else str(newest.relative_to(run.path)),
        "batch": None if batch is None else batch.name,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    try:
        run.write_failure(record)
    except StorageError as other:  # the first error is the one to tell
        reporter.message(f"warning: {other}")


class _Run:
    """One stretch of a run, from start or resume to its end."""

    def __init__(
        self,
        algorithm: Algorithm[Any],
        run: RunDirectory,
        reporter: Reporter,
        store: CheckpointStore,
        stop: StopRequests,
    ) -> None:
        self.algorithm = algorithm
        self.config = algorithm.config
        self.run = run
        self.reporter = reporter
        self.stop = stop
        self.logger = MetricsLogger(run.path)
        self.saves = Saves(algorithm, self.logger, store, reporter.message)
        self.began = time.perf_counter()
        self.trained_s = 0.0
        self.spent = TimeSpent()

    def execute(self, resume: bool) -> RunResult:
        """Trains, evaluates, saves; closes the logs whatever happens."""
        told = resume and self._resume()
        self.episodes = EpisodeLog(self.run.episodes_file)
        self.first_step = self.algorithm.env_steps
        self.reporter.start(self.config, self.run.path, self.first_step)
        self.reporter.message(_engine_line(self.algorithm.learners))
        self.reporter.message(_resume_line(self.algorithm.spaces.unrestorable))
        if not told:
            self.logger.log_text("config", f"```yaml\n{to_yaml(portable(self.config))}```", 0)
        self.logger.log_hparams(_scalars(self.config))
        try:
            self._train()
            return self._complete()
        except (GivenUp, EnvironmentFault, RuntimeFault) as error:
            # Of learners that are not in this process one may be what failed.
            if self.config.learners.num == 0 or not isinstance(error, RuntimeFault):
                self._last_words()
            newest = self.saves.store.latest
            if newest is not None and not isinstance(error, GivenUp):
                self.reporter.message(
                    f"checkpoint {newest.name} is kept: once that is mended,"
                    f" --resume {self.run.path} goes on"
                )
            raise
        finally:
            self.saves.close()
            self.logger.close()
            self.episodes.close()

    def _last_words(self) -> None:
        """Keeps what was learnt until the iteration under way."""
        if self.algorithm.episodes and not self.algorithm.midway:
            self._log_episodes(self.algorithm.episodes)
        self.saves.last_words()

    def _resume(self) -> bool:
        """Goes to where the run stood; returns whether its logs begin with this config."""
        store, logger = self.saves.store, self.logger
        resumed = resume_run(self.algorithm, store, logger, self.reporter.message)
        done, wanted = self.algorithm.env_steps, self.config.total_steps
        if done >= wanted and self.run.result_file.exists():
            raise UsageError(
                f"{self.run.path}: already at {done} of {wanted} environment steps; raise"
                " --total-steps to go on"
            )
        self.saves.saved = resumed.saved
        self.saves.evaluated = resumed.saved is None or resumed.saved[1]
        return resumed.same_config

    def _train(self) -> None:
        config, algorithm = self.config, self.algorithm
        self._stop_if_asked()
        if not self.saves.evaluated and algorithm.env_steps < config.total_steps:
            self._evaluate()  # it was given up when the run stopped
        while algorithm.env_steps < config.total_steps:
            before, began = algorithm.env_steps, time.perf_counter()
            with self.stop.may_give_up():
                result = algorithm.train_within(config.total_steps, self.stop.pressing)
            took = time.perf_counter() - began
            self.trained_s += took
            self.spent.add(result.metrics, took)
            self._log(result)
            if algorithm.env_steps >= config.total_steps:
                return  # it is evaluated and saved in any case
            if _due(config.evaluation.interval, before, result.env_steps):
                self._evaluate()
            self.saves.after(before, asked=self.stop.save_asked())
            self._stop_if_asked()

    def _log(self, result: TrainResult) -> None:
        if result.whole:
            self.logger.log(result.metrics, result.env_steps)
        self._log_episodes(result.episodes)
        self.reporter.progress(result)

    def _log_episodes(self, episodes: Sequence[tuple[int, Episode]]) -> None:
        for at, episode in episodes:
            self.episodes.append(at, episode.episode_return, episode.length, episode.seconds)
        self.episodes.flush()
        self.algorithm.episodes = []

    def _stop_if_asked(self) -> None:
        if self.stop.number is not None:
            self.saves.last_words()
            raise _interrupted(self.stop, self.saves.store)

    def _evaluate(self) -> Evaluation:
        """Tests the policy; the best so far is kept as a checkpoint."""
        self.saves.evaluated = False
        with self.stop.may_give_up():
            evaluation = self.algorithm.evaluate()
            shown = video_due(self.config, evaluation.env_steps)
            video = record_evaluation(self.algorithm) if shown else None
        if video is not None:
            told = self.reporter.message
            show_video(video, evaluation.env_steps, self.logger, self.run, told)
        self.logger.log(
            {
                "eval/mean_reward": evaluation.mean,
                "eval/std_reward": evaluation.std,
                "eval/mean_ep_length": evaluation.mean_length,
            },
            evaluation.env_steps,
        )
        self.saves.evaluated = True
        self.reporter.evaluation(evaluation)
        best = self.algorithm.best_return
        if best is None or evaluation.mean > best:
            self.algorithm.best_return = evaluation.mean
            self.saves.begin(best=True)
        return evaluation

    def _complete(self) -> RunResult:
        """Evaluates and saves at the end, unless the run was killed after having done so."""
        done = self.algorithm.env_steps
        if self.saves.saved == (done, True):
            with self.stop.may_give_up():
                evaluation = self.algorithm.evaluate()
        else:
            evaluation = self._evaluate()
        checkpoint = self.saves.finish()
        self._write_policy()
        over = done - self.config.total_steps
        self.reporter.message(
            f"took {done} environment steps of {self.config.total_steps}: "
            + (f"{over} more, less than one fragment" if over else "exactly the budget")
        )
        outcome = RunResult(
            env_steps=done,
            total_steps=self.config.total_steps,
            seconds=time.perf_counter() - self.began,
            steps_per_second=(done - self.first_step) / self.trained_s if self.trained_s else 0.0,
            evaluation=evaluation,
            episode_return_mean=self.algorithm.window.return_mean,
            checkpoint=checkpoint,
        )
        self.logger.log_hparams(_scalars(self.config), {})
        self.run.write_result(_summary(outcome, self.run.path))
        for line in self._time_lines():
            self.reporter.message(line)
        self.reporter.finish(outcome)
        return outcome

    def _time_lines(self) -> list[str]:
        learners = self.algorithm.learners
        return self.spent.lines(
            self.config, learners.engine, learners.engine_obstacles, available_cpus()
        )

    def _write_policy(self) -> None:
        """Puts `policy/` in place; an earlier stretch's makes way when the new one is whole."""
        target = self.run.policy
        fresh = temporary_sibling(target)
        try:
            self.algorithm.policy.save(fresh)
            if target.exists():
                target.rename(temporary_sibling(target))
            fresh.rename(target)
            sweep(self.run.path)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error


def _engine_line(learners: LearnerGroup | LearnerActors) -> str:
    """Which engine learns, and why where it is not the fastest one."""
    line = f"learning engine: {learners.engine}"
    reasons = [*learners.engine_obstacles]
    missing = kernels_obstacle()
    if learners.engine == "numpy" and missing:
        reasons.append(missing)
    return f"{line} (not compiled: {'; '.join(reasons)})" if reasons else line


def _resume_line(unrestorable: str) -> str:
    """Whether the run can go on as if it had never stopped, as far as the environment tells."""
    if not unrestorable:
        return "exact_resume: true"
    return f"exact_resume: false ({unrestorable}; unfinished episodes begin anew on resume)"


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
