"""Learners on Ray: the weights of those in processes, whichever of them is killed."""

from typing import Any

import pytest

from rl.configs.algorithm_config import AlgorithmConfig
from rl.testing.algorithms import weights_of
from tests.algorithms.test_learner_actors import (
    dqn_config,
    group_of,
    kill_in_update,
    ppo_config,
    sac_config,
    td3_config,
)

pytest.importorskip("ray", reason="needs the extra `ray`: pip install -e '.[ray]'")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.usefixtures("ray_here"),
]


def _trained(config: AlgorithmConfig, engine: str, victims: tuple[int | None, ...]) -> Any:
    """After a calm iteration, one for each victim; weights, and learners made anew."""
    with config.with_runtime(engine=engine).build() as algorithm:
        algorithm.train()
        for rank in victims:
            if rank is not None:
                kill_in_update(algorithm, rank)
            algorithm.train()
        return weights_of(algorithm), group_of(algorithm).health()["learners/restarts"]


@pytest.mark.parametrize(
    ("config", "victims"),
    [
        (ppo_config(2), (1,)),
        pytest.param(ppo_config(2), (1, 0), marks=pytest.mark.slow),
        pytest.param(dqn_config(2, learning_starts=0), (1, 0), marks=pytest.mark.slow),
        pytest.param(sac_config(2, learning_starts=0), (1, 0), marks=pytest.mark.slow),
        pytest.param(td3_config(2, learning_starts=0), (1, 0), marks=pytest.mark.slow),
    ],
    ids=["ppo once", "ppo", "dqn", "sac", "td3"],
)
def test_learners_killed_in_their_updates_change_nothing(
    config: AlgorithmConfig, victims: tuple[int, ...]
) -> None:
    calm, none = _trained(config, "process", (None,) * len(victims))
    assert none == 0
    disturbed, restarts = _trained(config, "ray", victims)
    assert restarts == len(victims)
    assert disturbed == calm
