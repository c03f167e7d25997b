"""Checkpoints of runs that remember: only what is new is written, and they go on to the bit."""

from pathlib import Path
from typing import Any

import pytest

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.dqn import DQN, DQNConfig
from rl.core.data import blocks
from rl.core.records.checkpoint import Checkpoint, read_checkpoint
from rl.testing.algorithms import weights_of

CONFIG = DQNConfig(
    env="CartPole-v1",
    hidden_sizes=(16,),
    total_steps=1200,
    learning_starts=40,
    buffer_size=400,
    batch_size=8,
    rollout_length=4,
    prioritized=True,
    n_step=3,
    seed=2,
).with_env_runners(num=1, envs_per_runner=2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of 20 rows of 2 environments."""
    monkeypatch.setattr(blocks, "MOST_BYTES", 20 * 2 * (4 * 4 + 4 * 4))


def saved(algorithm: Algorithm[Any], steps: int, path: Path) -> Checkpoint:
    if algorithm.env_steps < steps:
        algorithm.learn(steps)
    return read_checkpoint(algorithm.save(path))


def replay_files(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Bytes of each block and how many checkpoints have it."""
    found = {}
    for name in checkpoint.files:
        if name.startswith("replay/rows_"):
            stat = (checkpoint.path / name).stat()
            found[name] = stat.st_size, stat.st_nlink
    return found


def test_only_new_rows_are_written(tmp_path: Path) -> None:
    with DQN(CONFIG) as dqn:
        first = replay_files(saved(dqn, 400, tmp_path / "1"))
        assert len(first) == 9, "the 199 first steps of each environment hold 9 whole blocks"
        assert {links for _, links in first.values()} == {1}
        second = replay_files(saved(dqn, 480, tmp_path / "2"))
    shared = {name for name, (_, links) in second.items() if links == 2}
    assert shared == set(first) & set(second)
    assert len(second) - len(shared) == 2, "40 more steps of each"
    assert set(first) - set(second) == {"replay/rows_000000000000.safetensors"} | {
        "replay/rows_000000000001.safetensors"
    }, "overwritten"


def test_a_run_goes_on_from_its_blocks_and_shares_them(tmp_path: Path) -> None:
    with DQN(CONFIG) as whole:
        saved(whole, 400, tmp_path / "whole 1")
        end = saved(whole, 1200, tmp_path / "whole 2")
        expected = weights_of(whole)
    with DQN(CONFIG) as begun:
        saved(begun, 400, tmp_path / "1")
        second = saved(begun, 640, tmp_path / "2")
    with Algorithm.load(second.path) as resumed:
        third = saved(resumed, 640, tmp_path / "3")
        assert {links for _, links in replay_files(third).values()} <= {2, 3}, "nothing new"
        last = saved(resumed, 1200, tmp_path / "last")
        assert weights_of(resumed) == expected
    for name in end.files:
        if name.startswith("replay/"):
            ours, theirs = last.arrays(name), end.arrays(name)
            assert ours.keys() == theirs.keys()
            assert all((ours[key] == theirs[key]).all() for key in ours), name


def test_the_replay_of_a_checkpoint_that_is_gone_is_written_again(tmp_path: Path) -> None:
    with DQN(CONFIG) as dqn:
        first = saved(dqn, 400, tmp_path / "1")
        for name in replay_files(first):
            (first.path / name).unlink()
        second = saved(dqn, 408, tmp_path / "2")
        assert {links for _, links in replay_files(second).values()} == {1}
        expected = saved(dqn, 500, tmp_path / "whole")
    with Algorithm.load(second.path) as resumed:
        resumed.learn(500)
        ours = read_checkpoint(resumed.save(tmp_path / "resumed"))
        for name in ("learner.safetensors", "replay/state.safetensors"):
            assert {k: v.tobytes() for k, v in ours.arrays(name).items()} == {
                k: v.tobytes() for k, v in expected.arrays(name).items()
            }
