"""Whole runs: what an algorithm can sample is what its environments did, each step once."""

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest

from rl.algorithms.dqn import DQN, DQNConfig, DQNLearner
from tests.core.data.test_replay import contents, n_step_by_hand
from tests.env_runners.helpers import Counting

CAPACITY = 50
STEPS = 70


class Diary(Counting):
    """Notes (observation, action, reward, next observation, terminated, done) of its every step."""

    diaries: ClassVar[list[list[Any]]] = []

    def __init__(self) -> None:
        super().__init__()
        self._diary: list[Any] = []
        self.diaries.append(self._diary)

    def reset(self, **options: Any) -> Any:
        self._at, info = super().reset(**options)
        return self._at, info

    def step(self, action: Any) -> Any:
        following, reward, terminated, truncated, info = super().step(action)
        done = terminated or truncated
        kept = int(action - self.action_space.start)
        self._diary.append((self._at, kept, reward, following, terminated, done))
        self._at = following
        return following, reward, terminated, truncated, info


@pytest.mark.parametrize("runners", [(1, 1), (3, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("fragment", [1, 7, 32])
def test_a_run_remembers_what_its_environments_did(runners: tuple[int, int], fragment: int) -> None:
    Diary.diaries.clear()
    width = runners[0] * runners[1]
    settings = DQNConfig(
        env=Diary,
        seed=3,
        hidden_sizes=(8,),
        total_steps=STEPS * width,
        buffer_size=CAPACITY * width,
        batch_size=4,
        learning_starts=8,
        updates_per_step=0.1,
        rollout_length=fragment,
    )
    config = settings.with_env_runners(num=runners[0], envs_per_runner=runners[1])
    with DQN(config.with_runtime(engine="inline")) as dqn:
        dqn.learn()
        learner = dqn.learners._learner
        assert isinstance(learner, DQNLearner)
        diaries = [diary for diary in Diary.diaries if diary]
        assert [len(diary) for diary in diaries] == [STEPS] * width
        ends = [step for diary in diaries for step in diary if step[5]]
        assert {bool(step[4]) for step in ends} == {True, False}, "both kinds of end"
        for n_step in range(1, 6):
            expected: Counter[Any] = Counter()
            for diary in diaries:
                expected += n_step_by_hand(diary, n_step, CAPACITY)
            assert contents(learner.experience.replay, n_step) == expected, n_step
        assert np.isfinite(learner.flat.vector.numpy()).all()
