"""Algorithm: the driver. It owns runtime, groups and counters; a subclass owns the order of things.

A subclass says which learner it has (`make_learner`) and what one iteration is (`training_step`);
everything else here is called, and calls nothing back.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self

import gymnasium

from rl.algorithms import snapshot
from rl.algorithms.engines import make_actors, make_env_runners, make_learners, make_runtime
from rl.algorithms.registry import read_config
from rl.algorithms.results import TrainResult, count_sampling, ended_in, shares_of, warn_of_skipped
from rl.configs.yaml_io import to_yaml
from rl.core.data.rollout import Episode, Rollout
from rl.core.learning.devices import device_problems
from rl.core.learning.learner import ConfigT, Learner, Metrics
from rl.core.learning.learner_actors import LearnerActors
from rl.core.models.encoder_rules import check_encoder
from rl.core.models.policy import Policy
from rl.core.records.checkpoint import Checkpoint, write_checkpoint
from rl.core.records.checkpoint_store import CheckpointStore
from rl.core.records.episodes import EpisodeWindow
from rl.env_runners.environments import EnvironmentFactory, describe_env
from rl.env_runners.evaluation import Evaluation, evaluate_policy
from rl.errors import CheckpointError, Diverged, UsageError

__all__ = ["CLOSE_S", "Algorithm", "TrainResult"]

CLOSE_S = 10.0
"""Seconds that environments get to close."""


class Algorithm(ABC, Generic[ConfigT]):
    """Base of the algorithms. Close it, or use it as a context manager."""

    def __init__(self, config: ConfigT) -> None:
        """Makes the learner and the runners.

        Raises:
            ConfigError: Settings do not fit together.
            UsageError: The environment does not exist or does not suit the algorithm.
            EnvironmentFault: Its constructor raised.
        """
        self.config = config.checked(device_problems(config))
        self.spaces = describe_env(config)
        check_encoder(config, self.spaces)
        self.env_steps = 0
        self.iteration = 0
        self.window = EpisodeWindow(config.metrics.window)
        self.runtime = make_runtime(config)
        try:
            self.learners = make_learners(self)
            make_actor = make_actors(self)
            self.env_runners = make_env_runners(self.runtime, config, make_actor, self.spaces)
            self.publish_weights()
        except BaseException:
            self.runtime.shutdown()
            raise
        self._memory = snapshot.Memory()
        self._budget: int | None = None
        self._steps_at_start = 0
        self.episodes: list[tuple[int, Episode]] = []  # of the call under way, or the last
        self._row_began: int | None = None  # the step; None when a new row of metrics begins
        self._metrics: Metrics = {}
        self._seconds = {"sample": 0.0, "act": 0.0, "learn": 0.0}
        self._trained_s = 0.0
        self._skipped = 0.0  # updates of the run so far
        self.best_return: float | None = None  # of the best evaluation so far
        self.midway = False
        """Whether something changed since the last iteration ended: no time for a checkpoint."""

    @abstractmethod
    def make_learner(self) -> Learner[ConfigT]:
        """Builds the learner of `self.config` and `self.spaces`.

        It may be called in another process, on an algorithm that knows nothing but these two.
        """

    @abstractmethod
    def training_step(self) -> Metrics:
        """One iteration: samples, learns, publishes weights. Returns the learner's metrics."""

    # -- what a training_step is made of ---------------------------------------------------------

    def fragment_length(self, rollout_length: int, exact: bool = False) -> int:
        """T of the next fragments: `rollout_length`, or less where the budget ends before.

        Whole fragments are kept as long as the budget is overshot by less than one; only several
        runners can overshoot by more, and then all of them stop earlier. `exact` lets the last
        fragment be any shorter: the budget is overshot by less than a step of all environments.
        """
        if self._budget is None:
            return rollout_length
        width, fragment = (
            self.config.num_environments,
            rollout_length * self.config.env_runners.envs_per_runner,
        )
        left = self._budget - self.env_steps
        longest = math.ceil(left / width)
        if not exact:
            longest = max((left + fragment - 1) // width, longest)
        return max(1, min(rollout_length, longest))

    def sample(self, length: int) -> list[Rollout]:
        """A rollout of `length` steps per environment from every runner, counted and recorded."""
        began = time.perf_counter()
        rollouts = self.env_runners.sample(length)
        self.midway = True
        count_sampling(self._seconds, time.perf_counter() - began, rollouts)
        for at, episode in ended_in(rollouts, self.env_steps):
            self.window.add(episode.episode_return, episode.length, episode.success)
            self.episodes.append((at, episode))
        self.env_steps += sum(rollout.num_steps for rollout in rollouts)
        return rollouts

    def sample_ahead(self, length: int) -> None:
        """Has the runners sample what the next `sample` returns, while the driver goes on.

        They act with the weights published last; those published later are for the fragment after.
        Where nobody can work beside the driver, or the budget is spent, the next `sample` does it.
        """
        spent = self._budget is not None and self.env_steps >= self._budget
        if self.runtime.engine != "inline" and not spent:
            self.env_runners.begin(length)

    def learn_from(self, rollouts: Sequence[Rollout]) -> Metrics:
        """One `Learner.update`; schedules stand where they stood when the iteration began."""
        began = time.perf_counter()
        given: Any = rollouts
        if isinstance(self.learners, LearnerActors):
            given = [self.env_runners.reference(rollout) for rollout in rollouts]
        try:
            metrics = self.learners.update(given, self._steps_at_start)
        except Diverged as error:
            error.rollouts, error.env_steps = rollouts, self.env_steps
            raise
        self._seconds["learn"] += time.perf_counter() - began
        self._skipped = warn_of_skipped(metrics, self._skipped, self.env_steps)
        return metrics

    def publish_weights(self) -> None:
        """Hands the newest weights to every runner."""
        self.env_runners.set_weights(self.learners.get_weights())

    # -- what users call -------------------------------------------------------------------------

    def train(self) -> TrainResult:
        """One iteration."""
        return self._iterate(self.env_steps)

    def _iterate(self, end: int, stop: Callable[[], bool] = lambda: False) -> TrainResult:
        """Iterations to the step `end`, told as one row; of a metric the last value counts.

        A row that `stop` cuts short is gone on with by the next call, also after a resume.
        """
        began, steps_before = time.perf_counter(), self.env_steps
        self.episodes = []
        self._seconds = {"sample": 0.0, "act": 0.0, "learn": 0.0}
        if self._row_began is None:
            self._row_began, self._metrics = steps_before, {}
        with self.learners.computing():
            while True:
                self._steps_at_start = self.env_steps
                metrics = self.training_step()
                self._metrics |= metrics
                self.iteration += 1
                self.midway = False
                if self.env_steps >= end or stop():
                    break
        elapsed = time.perf_counter() - began
        self._trained_s += elapsed
        metrics = self._metrics | self.window.metrics() | self._timing(elapsed, steps_before)
        whole = self.env_steps >= end
        if whole:
            self._row_began = None
        return self._result(metrics, elapsed, steps_before, whole)

    def learn(self, total_steps: int | None = None) -> TrainResult:
        """Trains until the run has taken `total_steps` environment steps (default: the config's).

        The budget is met exactly, or overshot by less than one fragment. Schedules always span the
        config's `total_steps`. Returns the last iteration's result; raises `UsageError` when the
        budget is spent.
        """
        budget = self.config.total_steps if total_steps is None else total_steps
        if self.env_steps >= budget:
            raise UsageError(
                f"total_steps {budget}: the run has already taken {self.env_steps}; ask for more"
            )
        while True:
            result = self.train_within(budget)
            if self.env_steps >= budget:
                return result

    def train_within(self, budget: int, stop: Callable[[], bool] | None = None) -> TrainResult:
        """Iterations for `metrics.interval` environment steps, the last shortened by the budget.

        They end earlier where an evaluation or a checkpoint is due, and when `stop` says so.
        """
        config, before = self.config, self.env_steps
        began = before if self._row_began is None else self._row_began
        ends = [
            (before // interval + 1) * interval
            for interval in (config.evaluation.interval, config.checkpoints.interval)
            if interval
        ]
        end = min(began + config.metrics.interval, budget, *ends)
        self._budget = budget
        try:
            return self._iterate(end, stop or (lambda: False))
        finally:
            self._budget = None

    def evaluate(self, num_episodes: int | None = None, seed: int | None = None) -> Evaluation:
        """Plays whole episodes greedily, in environments of its own; training is not disturbed.

        Args:
            num_episodes: By default `evaluation.num_episodes` of the config.
            seed: Of the episodes; by default the config's, so that evaluations compare like with
            like.
        """
        return evaluate_policy(
            self.policy,
            EnvironmentFactory.of(self.config, self.spaces).for_evaluation(),
            self.config.evaluation.num_episodes if num_episodes is None else num_episodes,
            self.config.seed if seed is None else seed,
            env_steps=self.env_steps,
            max_failures=self.config.env_runners.max_env_failures,
        )

    @property
    def policy(self) -> Policy:
        """A copy of what acts now; later training does not change it."""
        return Policy(self.learners.network, self.config.seed)

    def close(self, patience: float = CLOSE_S) -> None:
        """Closes environments, waiting so many seconds for them, and ends every actor."""
        try:
            self.env_runners.close(patience)
        finally:
            self.runtime.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- checkpoints -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Writes a complete checkpoint. Raises `UsageError` if one is there, or `StorageError`."""
        files, meta = self.checkpoint_files()
        write_checkpoint(Path(path), files, meta)
        return Path(path)

    def save_to(self, store: CheckpointStore) -> Path:
        """Writes the next checkpoint of a run."""
        files, meta = self.checkpoint_files()
        return store.save(self.env_steps, files, meta)

    def checkpoint_files(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The files of a checkpoint by name, and what its manifest says of it."""
        files, meta = snapshot.files_of(
            self.config,
            self._config_text,
            self.learners.network,
            self.learners.get_state(),
            self._memory.files(self.learners),
            self.env_runners.states,
            {
                "env_steps": self.env_steps,
                "iteration": self.iteration,
                "trained_s": self._trained_s,
                "window": self.window.state(),
                "best_return": self.best_return,
                "row_began": self._row_began,
                "row": {name: repr(float(value)) for name, value in self._metrics.items()},
            },
            self.learners.engine,
            self.spaces.unrestorable,
        )
        if self.config.env_runners.overlap:
            files |= snapshot.acting_files(self.env_runners.weights)
        return files, meta

    @cached_property
    def _config_text(self) -> bytes:
        return to_yaml(snapshot.portable(self.config)).encode()

    def restore(self, checkpoint: Checkpoint) -> int:
        """Goes on from a checkpoint of the same config.

        Returns:
            Environment steps of unfinished episodes that could not be played again; 0 means the run
            goes on as if it had never stopped.
        """
        try:
            counters: Any = checkpoint.json("counters.json")
            self.learners.use_engine(str(checkpoint.meta.get("learning_engine", "")))
            self.learners.set_state(snapshot.learner_state(checkpoint))
            self._memory.restore(checkpoint, self.learners)
            lost = self.env_runners.set_states(snapshot.runner_states(checkpoint))
            self.env_steps = int(counters["env_steps"])
            self.iteration = int(counters["iteration"])
            self._trained_s = float(counters["trained_s"])
            self.window.load_state(counters["window"])
            best = counters["best_return"]
            self.best_return = None if best is None else float(best)
            row = counters.get("row_began")
            self._row_began = None if row is None else int(row)
            self._metrics = {str(k): float(v) for k, v in counters.get("row", {}).items()}
            self._skipped = self._metrics.get("train/skipped_updates", 0.0)
            acting = None
            if self.config.env_runners.overlap:
                acting = snapshot.acting_weights(checkpoint, self.env_runners.weights)
        except snapshot.MALFORMED as error:
            raise CheckpointError(
                f"{checkpoint.path}: does not hold a run of this config: {error!r}"
            ) from error
        self.env_runners.set_weights(acting or self.learners.get_weights(again=True))
        return lost

    @staticmethod
    def load(
        path: str | Path,
        env: Callable[..., gymnasium.Env[Any, Any]] | str | None = None,
        imports: Collection[str] = (),
    ) -> Algorithm[Any]:
        """Builds the algorithm of a checkpoint, or of a run's newest, and goes on from there.

        Args:
            path: A checkpoint, or a run directory.
            env: In place of the environment it was trained in; needed where that was a callable.
            imports: Modules that it may name and have imported, besides those that are already: of
                an algorithm or environment of one's own.

        Raises:
            CheckpointError: It is damaged, foreign or newer than this version.
            UsageError: Its environment was a callable, and `env` is missing; or it names a module
                that it may not.
        """
        checkpoint = snapshot.newest_checkpoint(Path(path))
        source = str(checkpoint.path / "config.yaml")
        replaced = () if env is None else ("env",)
        config = read_config(checkpoint.text("config.yaml"), source, imports, replaced)
        if env is not None:
            config = replace(config, env=env)
        elif checkpoint.meta.get("env_is_callable"):
            raise UsageError(
                f"{checkpoint.path}: its environment was the callable {config.env_id}, which no"
                " file can hold; give it again, Algorithm.load(path, env=...)"
            )
        algorithm: Algorithm[Any] = config.build()
        try:
            algorithm.restore(checkpoint)
        except BaseException:
            algorithm.close()
            raise
        return algorithm

    # -- results ---------------------------------------------------------------------------------

    def _timing(self, elapsed: float, steps_before: int) -> Metrics:
        steps = self.env_steps - steps_before
        metrics = {
            "time/fps": steps / elapsed,
            "time/iterations": float(self.iteration),
            "time/time_elapsed": self._trained_s,
            "time/total_timesteps": float(self.env_steps),
        } | shares_of(elapsed, steps, **self._seconds)
        return metrics | self.env_runners.health() | self.learners.health()

    def _result(
        self, metrics: Metrics, elapsed: float, steps_before: int, whole: bool
    ) -> TrainResult:
        return TrainResult(
            env_steps=self.env_steps,
            total_steps=self._budget or self.config.total_steps,
            iteration=self.iteration,
            episode_return_mean=self.window.return_mean,
            episode_length_mean=self.window.length_mean,
            steps_per_second=(self.env_steps - steps_before) / elapsed,
            metrics=metrics,
            episodes=tuple(self.episodes),
            whole=whole,
        )
