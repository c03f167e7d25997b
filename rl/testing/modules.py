"""What every Module must do; for authors of networks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rl.core.data.masks import has_choice
from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.data.tree import Array, first_leaf, tree_map
from rl.core.data.weights import Weights
from rl.core.models.actor import actor_factory, draw_noise
from rl.core.models.encoder_rules import encoder_problems
from rl.core.models.modules import Module
from rl.core.models.torch_actor import TorchActor

__all__ = ["check_module"]


def check_module(
    make_module: Callable[[], nn.Module],
    batch: int = 5,
    observation_space: spaces.Space[Any] | None = None,
) -> None:
    """Asserts the contract of `Module` on random observations of its space.

    Any other `torch.nn.Module` is an encoder, as `encoder` of a config names one: from observations
    of `observation_space` to features [N, F]; all rules that it breaks are told at once.

    It acts in its action space's layout, greedily or from noise, the same for the same noise, each
    row on its own, and never what a mask forbids; its state is all there is to it; what a runner
    builds from it acts as it does. One with memory begins an episode with zeros.

    Raises:
        AssertionError: A rule is broken; the message says which.
    """
    made = make_module()
    if not isinstance(made, Module):
        assert observation_space is not None, "an encoder needs observation_space=..."
        broken = encoder_problems(make_module, ObservationLayout(observation_space))
        assert not broken, "\n".join(f"{type(made).__name__} {text}" for text in broken)
        return
    module = made.eval()
    layout, actions = module.observation_layout, module.action_layout
    layout.space.seed(0)
    observations = layout.stack([layout.space.sample() for _ in range(batch)])
    inputs = tree_map(torch.tensor, observations)
    noise = draw_noise(
        actions, np.random.default_rng(0), batch, parameter_noise=module.parameter_noise
    )

    with torch.no_grad():
        sampled, extras = module.act(inputs, torch.tensor(noise))
        again, _ = module.act(inputs, torch.tensor(noise))
        greedy, nothing = module.act(inputs, None)
    assert tuple(sampled.shape) == (batch, *actions.shape), "act: actions have the wrong shape"
    assert tuple(greedy.shape) == (batch, *actions.shape), "act: greedy actions, the wrong shape"
    assert torch.equal(sampled, again), "act: the same noise gave other actions"
    assert not nothing, "act: greedy actions come without extras"
    for name, values in extras.items():
        assert values.shape[0] == batch, f"act: the extra {name!r} has no row for each observation"
        assert torch.isfinite(values).all(), f"act: the extra {name!r} is not finite"
    mask = layout.mask_of(observations)
    if mask is not None:
        _check_mask(actions, mask, (sampled.numpy(), greedy.numpy()))
    for action in actions.decode(sampled.numpy().astype(actions.dtype)):
        assert actions.space.contains(action), f"act: {action} is not in {actions.space}"
    _check_rows(module, observations, greedy.numpy())
    _check_state(cast("Callable[[], Module]", make_module), module, observations, greedy.numpy())
    _check_actors(module, observations, noise, (sampled.numpy(), extras))
    if module.memory_size:
        _check_memory(module, observations, noise, sampled.numpy())


def _check_mask(actions: ActionLayout, mask: Array, chosen: tuple[Array, Array]) -> None:
    """What a mask forbids must not be chosen, but where it leaves nothing."""
    for row in np.flatnonzero(has_choice(actions, mask)):
        for rows in chosen:
            columns = np.atleast_1d(rows[row])
            for head in actions.heads:
                allowed = mask[row, head.parameters][columns[head.columns.start]]
                assert allowed, f"act: chose {rows[row]}, which the mask {mask[row]} forbids"


def _check_rows(module: Module, observations: Array | dict[str, Array], greedy: Array) -> None:
    """A row's action must not depend on the rows beside it."""
    last = tree_map(lambda leaf: torch.tensor(leaf[-1:]), observations)
    with torch.no_grad():
        alone, _ = module.act(last, None)
    close = np.allclose(alone.numpy()[0], greedy[-1], atol=1e-4)
    assert close, "act: an action depends on the other rows of its batch"


def _check_state(
    make_module: Callable[[], Module],
    module: Module,
    observations: Array | dict[str, Array],
    greedy: Array,
) -> None:
    """Copies, pickles and reloads must act the same: everything acting needs is in `state_dict`."""
    fresh = make_module().eval()
    fresh.load_state_dict(module.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        with torch.no_grad():
            actions, _ = other.act(tree_map(torch.tensor, observations), None)
        assert np.array_equal(actions.numpy(), greedy), (
            "a copy with the same state acts differently"
        )


def _check_actors(
    module: Module,
    observations: Array | dict[str, Array],
    noise: Array,
    expected: tuple[Array, dict[str, torch.Tensor]],
) -> None:
    """Runners act as the module does, up to rounding."""
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    buffers = {name: buffer.numpy() for name, buffer in module.named_buffers()}
    actions, extras = expected
    for actor in (actor_factory(module)(), TorchActor(module)):
        actor.set_weights(Weights(1, vector, buffers))
        got, got_extras = actor.act(observations, noise)
        name = type(actor).__name__
        assert first_leaf(observations).shape[0] == got.shape[0]
        assert np.allclose(got, actions, atol=1e-5), f"{name} acts differently"
        assert set(got_extras) == set(extras), f"{name} gives the extras {sorted(got_extras)}"
        for key, values in extras.items():
            assert np.allclose(got_extras[key], values.numpy(), atol=1e-5), f"{name}: {key} differs"


def _check_memory(
    module: Module, observations: Array | dict[str, Array], noise: Array, sampled: Array
) -> None:
    """Zeros are the first step of an episode; what is remembered goes in and out."""
    batch, size = len(sampled), module.memory_size
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    buffers = {name: buffer.numpy() for name, buffer in module.named_buffers()}
    states = []
    for actor in (actor_factory(module)(), TorchActor(module)):
        recurrent: Any = actor
        recurrent.set_weights(Weights(1, vector, buffers))
        memory = np.zeros((batch, size), np.float32)
        actions, _, after = recurrent.act_with_memory(observations, noise, memory)
        assert np.allclose(actions, sampled, atol=1e-5), "act: not as at an episode's first step"
        shape = after.shape
        assert shape == (batch, size), f"act_with_memory: what is remembered has the shape {shape}"
        assert np.isfinite(after).all(), "act_with_memory: what is remembered is not finite"
        assert not memory.any(), "act_with_memory: changes the memory it was given"
        states.append(recurrent.act_with_memory(observations, noise, after)[2])
    assert np.allclose(states[0], states[1], atol=1e-5), "a runner remembers something else"
