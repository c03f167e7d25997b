"""Compiled passes on several threads: the same bits, whoever takes which part, and no stuck run."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import rl
from rl.algorithms import engines
from rl.core.data.tree import Array
from rl.core.kernels.adam import CompiledAdam
from rl.core.kernels.follow import follow
from rl.core.kernels.mlp import CompiledMLP
from rl.core.kernels.threads import kernel_threads
from rl.core.learning.threads import LearningThreads
from tests.by_hand import needs_kernels

SIZES = (4, 64, 64, 2), (17, 256, 256, 12), (3, 500, 1), (40, 33)


def network(sizes: tuple[int, ...], turned: bool, seed: int) -> tuple[CompiledMLP, list[Array]]:
    """A network with weights [outputs, inputs], or lying the other way, and its gradients."""
    generator, layers, gradients = np.random.default_rng(seed), [], []
    for narrow, wide in itertools.pairwise(sizes):
        shape = (narrow, wide) if turned else (wide, narrow)
        weight = generator.normal(0, 0.2, shape).astype(np.float32)
        slot = np.full_like(weight, np.nan)
        layers.append((weight.T if turned else weight, np.ones(wide, np.float32)))
        gradients.append((slot.T if turned else slot, np.full(wide, np.nan, np.float32)))
    flat = [array for pair in gradients for array in pair]
    return CompiledMLP(layers, gradients, "silu", head=True), flat


def both_ways(sizes: tuple[int, ...], turned: bool, rows: int, seed: int = 0) -> list[bytes]:
    """Everything a pass and the way back leave."""
    mlp, gradients = network(sizes, turned, seed)
    generator = np.random.default_rng(rows)
    outputs = mlp.forward(generator.normal(size=(rows, sizes[0])).astype(np.float32)).copy()
    back = generator.normal(size=outputs.shape).astype(np.float32)
    at_inputs = mlp.backward(back, to_inputs=True)
    return [array.tobytes() for array in (outputs, at_inputs, *gradients)]


@needs_kernels
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_any_number_of_threads_gives_the_same_bits(sizes: tuple[int, ...], turned: bool) -> None:
    for rows in (1, 7, 64, 131, 512):
        alone = both_ways(sizes, turned, rows)
        for count in (2, 3, 8):
            with kernel_threads(count):
                assert both_ways(sizes, turned, rows) == alone, (rows, count)


@needs_kernels
def test_adam_gives_the_same_bits() -> None:
    generator = np.random.default_rng(0)
    first = [np.abs(generator.normal(size=100_003)).astype(np.float32) for _ in range(4)]

    def after(count: int) -> list[bytes]:
        arrays = [array.copy() for array in first]
        with kernel_threads(count):
            adam = CompiledAdam(*arrays, (0.9, 0.999), 1e-8)
            for number in range(1, 400):  # a part taken twice would be a step more
                adam.step(number, 1e-3)
        return [array.tobytes() for array in arrays]

    assert after(1) != [array.tobytes() for array in first]
    assert after(2) == after(5) == after(1)


@needs_kernels
@pytest.mark.parametrize("size", [5, 100_003])
def test_a_target_follows_as_torch_has_it_on_any_number_of_threads(size: int) -> None:
    target, values = np.random.default_rng().normal(size=(2, size)).astype(np.float32)
    expected = torch.tensor(target).lerp_(torch.tensor(values), 0.005).numpy()
    found = []
    for count in (1, 2, 5):
        own = target.copy()
        with kernel_threads(count):
            follow(own, values, 0.005)
        np.testing.assert_allclose(own, expected, rtol=1e-6, atol=1e-7)
        found.append(own.tobytes())
    assert len(set(found)) == 1


@needs_kernels
def test_more_threads_than_cores_never_lose_a_part() -> None:
    expected = {rows: both_ways((9, 70, 70, 3), False, rows) for rows in (40, 200)}
    with kernel_threads(4 * (os.cpu_count() or 1)):
        for _ in range(150):
            for rows, wanted in expected.items():
                assert both_ways((9, 70, 70, 3), False, rows) == wanted


@needs_kernels
def test_a_block_puts_the_number_back_and_starts_threads_that_leave_signals_alone() -> None:
    code = """
import os, signal
from rl.core.kernels.library import kernels
from rl.core.kernels.threads import kernel_threads
from rl.core.learning.threads import LearningThreads
before = set(os.listdir("/proc/self/task"))
with kernel_threads(3):
    new = set(os.listdir("/proc/self/task")) - before
    assert len(new) == 2, new
    for task in new:
        status = open(f"/proc/self/task/{task}/status").read()
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        assert blocked >> (signal.SIGINT - 1) & 1 and blocked >> (signal.SIGTERM - 1) & 1
    with kernel_threads(1):
        assert kernels().set_threads(1) == 1
    assert kernels().set_threads(3) == 3
    assert len(os.listdir("/proc/self/task")) == len(before) + 2  # those of before serve again
assert kernels().set_threads(1) == 1
"""
    run_python(code)


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_alone_until_it_asks_for_threads() -> None:
    code = """
import os
from rl.core.kernels.threads import kernel_threads
from rl.core.learning.threads import LearningThreads
from tests.core.kernels.test_threads import both_ways
alone = both_ways((17, 256, 256, 12), False, 256)
with kernel_threads(2):
    for _ in range(20):
        assert both_ways((17, 256, 256, 12), False, 256) == alone
    child = os.fork()
    if not child:
        same = both_ways((17, 256, 256, 12), False, 256) == alone
        with kernel_threads(2):
            same = same and both_ways((17, 256, 256, 12), False, 256) == alone
            helped = len(os.listdir("/proc/self/task")) == 2
        os._exit(0 if same and helped else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run_python(code)


def run_python(code: str) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


PPO = rl.PPOConfig(
    env="CartPole-v1", seed=3, rollout_length=64, num_epochs=2, minibatch_size=256
).with_env_runners(envs_per_runner=8)
SHARED = rl.PPOConfig(
    env="Pendulum-v1",
    seed=3,
    rollout_length=64,
    num_epochs=2,
    minibatch_size=250,  # and one of 12
    hidden_sizes=(64, 70),
    shared_torso=True,
).with_env_runners(envs_per_runner=8)
SAC = rl.SACConfig(
    env="Pendulum-v1",
    seed=3,
    rollout_length=50,
    learning_starts=50,
    hidden_sizes=(96, 70),
    batch_size=250,
    prioritized=True,
)
TD3 = rl.TD3Config(
    env="Pendulum-v1",
    seed=3,
    rollout_length=50,
    learning_starts=50,
    hidden_sizes=(96, 70),
    batch_size=250,
    prioritized=True,
)


@needs_kernels
@pytest.mark.parametrize("run", [PPO, SHARED, SAC, TD3], ids=["ppo", "shared", "sac", "td3"])
def test_learners_threads_changes_no_bit_of_a_compiled_run(
    run: rl.PPOConfig | rl.SACConfig | rl.TD3Config,
) -> None:
    def weights(threads: int | str) -> bytes:
        config = run.with_learners(threads=threads, engine="compiled")
        with config.build() as algorithm:
            for _ in range(2):
                algorithm.train()
            return algorithm.learners.get_weights().parameters.tobytes()

    before = threading.active_count()
    assert weights(1) == weights(2) == weights(3) == weights("auto")
    assert threading.active_count() == before


def test_auto_threads_follow_the_cores_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    config = rl.PPOConfig(env="CartPole-v1")

    def chosen(cores: int, engine: str = "inline", **runners: object) -> tuple[int, int]:
        monkeypatch.setattr(engines, "available_cpus", lambda: cores)
        own = config.with_env_runners(**runners)
        threads = LearningThreads.of(own.learners, engines.free_cores(own, engine))
        return threads.ordinary, threads.in_kernels

    assert chosen(1) == (1, 1)
    assert chosen(2) == chosen(64) == (1, 2)
    assert chosen(2, "process", num=2) == (1, 2)  # they rest while it learns
    assert chosen(2, "process", num=1, overlap=True) == (1, 1)
    assert chosen(3, "process", num=1, overlap=True) == (1, 2)
    config = config.with_learners(threads=5)
    assert chosen(2) == (5, 5)
