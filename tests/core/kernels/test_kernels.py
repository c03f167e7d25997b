"""The compiled kernels by themselves; tests of the engines hold them to the torch losses."""

import itertools
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hatch_build
import rl
from rl.core.data.tree import Array
from rl.core.kernels import library
from rl.core.kernels.adam import CompiledAdam
from rl.core.kernels.library import kernels, kernels_obstacle
from rl.core.kernels.mlp import COMPILED_ACTIVATIONS, CompiledLayers, CompiledMLP
from rl.core.kernels.ppo import CompiledPPOLoss, PPONetworks, PPOWeights
from rl.core.models import numpy_mlp
from rl.errors import UsageError
from tests.by_hand import needs_kernels

NO_COMPILER = platform.machine() != "x86_64" or shutil.which("cc") is None


def layers_of(generator: np.random.Generator, *sizes: int) -> list[tuple[Array, Array]]:
    return [
        (
            generator.normal(size=(wide, narrow)).astype(np.float32) / np.float32(narrow**0.5),
            generator.normal(size=wide).astype(np.float32),
        )
        for narrow, wide in itertools.pairwise(sizes)
    ]


def by_numpy(layers: list[tuple[Array, Array]], activation: str, inputs: Array) -> Array:
    for index, (weight, bias) in enumerate(layers):
        inputs = inputs @ weight.T + bias
        if index < len(layers) - 1:
            inputs = numpy_mlp.ACTIVATIONS[activation](inputs)
    return inputs


def forget() -> None:
    for cached in (library.kernels, library.kernels_obstacle, library._load):
        cached.cache_clear()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where the compiled file is looked for meanwhile, in a folder with nothing in it."""
    with monkeypatch.context() as patch:
        patch.setattr(library, "LIBRARY", tmp_path / "kernels.so")
        forget()
        yield tmp_path
    forget()


@pytest.mark.skipif(NO_COMPILER, reason="no C compiler, or not x86-64")
def test_they_are_there_where_there_is_a_compiler() -> None:
    assert kernels_obstacle() in (None, "this processor lacks AVX2 or FMA")


@needs_kernels
@pytest.mark.parametrize("activation", sorted(COMPILED_ACTIVATIONS))
@pytest.mark.parametrize("sizes", [(4, 64, 64, 2), (17, 23, 1), (3, 16), (300, 40, 33)])
def test_acting_gives_what_numpy_gives(activation: str, sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng()
    layers = layers_of(generator, *sizes)
    compiled = CompiledLayers(layers, [activation] * (len(layers) - 1) + [""])
    for rows in (1, 2, 5, 6, 7, 64, 0):
        inputs = 2 * generator.normal(size=(rows, sizes[0])).astype(np.float32)
        np.testing.assert_allclose(
            compiled(inputs), by_numpy(layers, activation, inputs), rtol=1e-5, atol=2e-5
        )


@needs_kernels
def test_a_row_is_the_same_whatever_rows_stand_beside_it() -> None:
    generator = np.random.default_rng(0)
    compiled = CompiledLayers(layers_of(generator, 9, 50, 7), ["tanh", ""])
    inputs = generator.normal(size=(40, 9)).astype(np.float32)
    whole = compiled(inputs)
    for size in (2, 3, 4, 5, 6, 7, 11):
        assert np.array_equal(compiled(inputs[:size]), whole[:size])


@needs_kernels
def test_rows_of_a_wider_table_and_columns_of_another_are_taken_as_they_lie() -> None:
    generator = np.random.default_rng(0)
    layers = layers_of(generator, 5, 8, 3)
    compiled = CompiledLayers(layers, ["relu", ""])
    table = generator.normal(size=(12, 9)).astype(np.float32)
    for inputs in (table[:, 2:7], table[::2, :5], table[:5].T[:, :5], table[::-1, 4:]):
        np.testing.assert_allclose(
            compiled(inputs), by_numpy(layers, "relu", inputs), rtol=1e-5, atol=1e-5
        )


@needs_kernels
def test_new_values_count_after_a_word_of_them() -> None:
    generator = np.random.default_rng(0)
    layers = layers_of(generator, 5, 8, 3)
    compiled = CompiledLayers(layers, ["tanh", ""])
    inputs = generator.normal(size=(4, 5)).astype(np.float32)
    before = compiled(inputs)
    layers[0][0][:] += 1
    compiled.changed()
    assert not np.allclose(compiled(inputs), before)
    np.testing.assert_allclose(compiled(inputs), by_numpy(layers, "tanh", inputs), rtol=1e-5)


@needs_kernels
def test_what_does_not_fit_is_refused_before_the_memory_behind_it_is_read() -> None:
    generator = np.random.default_rng(0)
    compiled = CompiledLayers(layers_of(generator, 5, 8, 3), ["tanh", ""])
    for shape in ((4, 6), (4, 4), (5,)):
        with pytest.raises(ValueError, match=r"instead of \[N, 5\]"):
            compiled(np.zeros(shape, np.float32))
    doubles = generator.normal(size=(4, 5))
    assert np.array_equal(compiled(doubles), compiled(doubles.astype(np.float32)))
    sizes = (5, 8, 3), (5, 8, 1)
    policy, value = (
        CompiledMLP(layers_of(generator, *own), layers_of(generator, *own), "tanh", head=True)
        for own in sizes
    )
    loss = CompiledPPOLoss(PPONetworks(None, policy, value, None))
    features, columns = np.zeros((2, 5), np.float32), np.zeros((4, 2), np.float32)
    weights = PPOWeights(0.2, None, None, 0.5, 0.0, 0.0)
    loss.gradient(weights, features, np.array([0, 2]), columns)
    for action in (3, -1):
        with pytest.raises(IndexError, match="none of 0 to 2"):
            loss.gradient(weights, features, np.array([0, action]), columns)
    for shape, actions in (((2, 4), [0, 1]), ((2, 5), [0]), ((2, 5), [[0, 0], [1, 1]])):
        with pytest.raises(ValueError, match=r"instead of \(2, 5\) and 2"):
            loss.gradient(weights, np.zeros(shape, np.float32), np.array(actions), columns)


@needs_kernels
@pytest.mark.parametrize("size", [1, 8, 21])
def test_adam_takes_the_steps_of_torch(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    expected = torch.nn.Parameter(torch.randn(size, generator=generator))
    optimizer = torch.optim.Adam([expected], lr=0.01, betas=(0.9, 0.999), eps=1e-5)
    values = expected.detach().numpy().copy()
    gradient, mean, square = (np.zeros(size, np.float32) for _ in range(3))
    adam = CompiledAdam(values, gradient, mean, square, (0.9, 0.999), 1e-5)
    for count in range(1, 30):
        gradient[:] = torch.randn(size, generator=generator).numpy()
        rate = 0.01 / count
        optimizer.param_groups[0]["lr"] = rate
        expected.grad = 0.5 * torch.from_numpy(gradient)
        optimizer.step()
        given = gradient.copy()
        adam.step(count, rate, scale=0.5)
        assert np.array_equal(gradient, given)
        np.testing.assert_allclose(values, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("count", [1, 2, 7])
def test_categories_are_those_that_numpy_takes(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng()
    logits = 3 * generator.normal(size=(300, count + 2)).astype(np.float32)[:, 1:-1]
    logits[::3, 0] = -np.inf  # forbidden, like the mask says
    if count == 1:
        logits[:] = 0
    noise = generator.random((300, 2), np.float32)[:, 1]
    noise[:2] = 0
    actions, log_probs = numpy_mlp.sample_categories(logits, noise)
    monkeypatch.setattr(numpy_mlp, "kernels", lambda: None)
    expected, expected_log_probs = numpy_mlp.sample_categories(logits, noise)
    assert actions.dtype == expected.dtype
    assert (actions != expected).sum() <= 1  # at a border the last bit may decide
    same = actions == expected
    np.testing.assert_allclose(log_probs[same], expected_log_probs[same], rtol=1e-5, atol=1e-6)
    assert np.isfinite(log_probs).all()


@needs_kernels
def test_kernels_of_other_sources_are_not_called(elsewhere: Path) -> None:
    home = Path(library.__file__).parent
    for path in (home / "kernels.so", *home.glob("*.[ch]")):
        shutil.copy(path, elsewhere)
    forget()
    assert kernels_obstacle() is None
    with (elsewhere / "ppo.c").open("a") as file:
        file.write("/* another version */")
    forget()
    assert "other C files" in str(kernels_obstacle())
    assert kernels() is None


@pytest.mark.usefixtures("elsewhere")
def test_without_them_runs_go_on_numpy_and_say_why() -> None:
    assert kernels() is None
    config: Any = rl.PPOConfig(total_steps=64, rollout_length=32, minibatch_size=32)
    with config.build() as algorithm:
        algorithm.learn()
        assert algorithm.learners.engine == "numpy"
    with pytest.raises(UsageError, match=r"'compiled' cannot.*without a C compiler.*'auto'"):
        config.with_learners(engine="compiled").build()


def test_a_compiler_that_fails_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hatch_build, "KERNELS", tmp_path)
    monkeypatch.setattr(hatch_build, "LIBRARY", tmp_path / "kernels.so")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "kernels.so").write_text("old")
    (tmp_path / "bad.c").write_text("not C")
    for command, words in (("false", "false failed"), ("no-such-compiler", "CC names another")):
        monkeypatch.setenv("CC", command)
        assert words in str(hatch_build.compile_kernels())
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "aarch64" in str(hatch_build.compile_kernels())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.c", "kernels.so"]
    assert (tmp_path / "kernels.so").read_text() == "old"
