"""Updates whose loss is not finite are skipped, by every algorithm and learning engine."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.registry import config_class
from rl.core.data.rollout import Rollout
from rl.core.learning.learner import Learner
from rl.core.learning.learner_group import LearnerGroup
from rl.errors import Diverged
from tests.by_hand import FASTEST
from tests.faults.runs import SMALL

OFF_POLICY: dict[str, Any] = {"learning_starts": 32, "buffer_size": 1000, "updates_per_step": 0.5}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {"minibatch_size": 4, "gae_lambda": 0.0}),
    "dqn": ("dqn", OFF_POLICY | {"n_step": 1}),
    "sac": ("sac", OFF_POLICY | {"normalize_rewards": False, "prioritized": True}),
    "td3": ("td3", OFF_POLICY | {"prioritized": True}),
}


def _build(case: str, engine: str) -> Algorithm[Any]:
    algo, settings = CASES[case]
    values = {"env": "CartPole-v1", **SMALL[algo], **settings, "normalize_rewards": False}
    values.pop("metrics", None)
    config = config_class(algo)(
        hidden_sizes=(8,), seed=3, learners={"engine": engine}, total_steps=10_000, **values
    )
    algorithm: Algorithm[Any] = config.build()
    return algorithm


def _learner(algorithm: Algorithm[Any]) -> Learner[Any]:
    assert isinstance(algorithm.learners, LearnerGroup)
    return algorithm.learners._learner


def _poison(algorithm: Algorithm[Any], share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes so many of the rewards that follow infinite, and at least one."""
    sample = algorithm.env_runners.sample

    def poisoned(length: int) -> Sequence[Rollout]:
        first, *others = sample(length)
        rewards = first.rewards.copy()
        rewards[: max(1, int(share * len(rewards)))] = np.inf
        return [replace(first, rewards=rewards), *others]

    monkeypatch.setattr(algorithm.env_runners, "sample", poisoned)


def _cases() -> list[Any]:
    engines = ("torch", "numpy", *({FASTEST} - {"numpy"}))
    return [(case, engine) for case in CASES for engine in engines]


@pytest.mark.parametrize(("case", "engine"), _cases())
def test_what_cannot_be_learnt_from_is_left_out(
    case: str, engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with _build(case, engine) as algorithm, caplog.at_level(logging.WARNING, "rl"):
        for _ in range(4):
            metrics = algorithm.train().metrics
        assert metrics["train/skipped_updates"] == 0
        with monkeypatch.context() as patch:
            _poison(algorithm, 0.0, patch)
            algorithm.train()
        for _ in range(12):
            metrics = algorithm.train().metrics
            learnt = {k: v for k, v in metrics.items() if k.startswith("train/")}
            assert np.isfinite(list(learnt.values())).all(), learnt
        skipped = metrics["train/skipped_updates"]
        assert skipped >= 1
        assert skipped < metrics["train/n_updates"] / 4
        told = [r for r in caplog.records if "were skipped" in r.getMessage()]
        assert told
        assert told[-1].args is not None
        assert told[-1].args[-1] == skipped  # type: ignore[index]
        state = {**algorithm.learners.get_state(), **_memory(algorithm)}
        for name, array in state.items():
            assert np.isfinite(array).all(), name


def _memory(algorithm: Algorithm[Any]) -> dict[str, Any]:
    """What a replay says of its draws; not the poisoned rewards themselves."""
    state = algorithm.learners.get_memory().get("state") or {}
    return {name: state[name] for name in ("priorities", "largest") if name in state}


@pytest.mark.parametrize(("case", "engine"), _cases())
def test_where_nothing_can_be_learnt_from_the_run_ends_with_its_batch(
    case: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _build(case, engine) as algorithm:
        _poison(algorithm, 1.0, monkeypatch)
        with pytest.raises(Diverged, match="3 updates in a row") as caught:
            algorithm.learn(1000)
        flats = [_learner(algorithm).flat, *_learner(algorithm).others.values()]
        assert all(flat.is_finite() for flat in flats)
        assert caught.value.rollouts
        if case == "ppo":
            return
        batch = caught.value.batch
        assert np.isinf(batch["returns"]).any()
        assert {len(array) for array in batch.values()} == {16}
        assert {"indices", "observations", "actions", "next_observations", "discounts"} < set(batch)
