"""The actor of a GPU, with a CPU as its device; what it samples is in tests/env_runners."""

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rl.core.data.tree import Array
from rl.core.models.actor import Actor, actor_factory, acts_row_by_row, kept_rows
from rl.core.models.device_actor import DeviceActor, device_actor_factory, together_on_host
from rl.core.models.modules import ActorCritic
from rl.core.models.plain import PlainNetwork
from rl.core.models.spec import NetworkSpec
from rl.core.models.torch_actor import TorchActor

CPU, META = torch.device("cpu"), torch.device("meta")
CAMERA = spaces.Dict(
    {"camera": spaces.Box(0, 255, (36, 36, 3), np.uint8), "speed": spaces.Box(-1.0, 1.0, (2,))}
)


def spec_of(observations: spaces.Space[Any], **settings: Any) -> NetworkSpec:
    return NetworkSpec(observations, spaces.Discrete(3), hidden_sizes=(8,), **settings)


def plain() -> PlainNetwork:
    spec = spec_of(spaces.Box(-1.0, 1.0, (4,)))
    return PlainNetwork("actor_critic", spec, np.random.default_rng(0))


def rows(count: int = 5) -> Array:
    return np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)


def noise(count: int = 5) -> Array:
    return np.random.default_rng(2).random((count, 1), np.float32)


@pytest.mark.parametrize("greedy", [False, True])
def test_it_acts_to_the_bit_as_on_the_cpu(greedy: bool) -> None:
    module = ActorCritic(spec_of(CAMERA))
    random = np.random.default_rng(0)
    camera = random.integers(256, size=(5, 36, 36, 3), dtype=np.uint8)
    seen: Any = {"camera": camera, "speed": rows()[:, :2]}
    given = None if greedy else noise()
    (actions, extras), (expected, others) = (
        actor.act(seen, given) for actor in (DeviceActor(module, CPU), TorchActor(module))
    )
    assert (actions.dtype, actions.tobytes()) == (expected.dtype, expected.tobytes())
    assert {*extras} == {*others} == (set() if greedy else {"log_prob", "value"})
    for name, values in extras.items():
        assert (values.dtype, values.tobytes()) == (others[name].dtype, others[name].tobytes())


def test_a_network_that_acts_in_arrays_acts_with_torch_on_a_device() -> None:
    network = plain()
    light = actor_factory(network)()
    assert not isinstance(light, TorchActor)
    light.set_weights(network.acting_weights(0))
    actor = device_actor_factory(network, CPU, keeps=False)()
    assert isinstance(actor, DeviceActor)
    actions, extras = actor.act(rows(), noise())
    expected, others = light.act(rows(), noise())
    assert np.array_equal(actions, expected)
    np.testing.assert_allclose(extras["log_prob"], others["log_prob"], rtol=1e-5)


def test_it_acts_with_the_weights_it_is_given_and_not_with_the_learners() -> None:
    network = plain()
    factory = device_actor_factory(network, CPU, keeps=False)
    actor = factory()
    before = actor.act(rows(), noise())[1]["log_prob"].copy()
    network.vector += 1
    assert np.array_equal(actor.act(rows(), noise())[1]["log_prob"], before)
    actor.set_weights(network.acting_weights(1))
    after = actor.act(rows(), noise())[1]["log_prob"]
    assert not np.array_equal(after, before)
    assert np.array_equal(after, TorchActor(network.build()).act(rows(), noise())[1]["log_prob"])


def test_it_travels_to_a_worker() -> None:
    factory = pickle.loads(pickle.dumps(device_actor_factory(plain(), CPU, keeps=True)))
    assert np.array_equal(
        factory().act(rows(), noise())[0], TorchActor(plain().build()).act(rows(), noise())[0]
    )


def test_observations_go_to_its_device_in_their_own_kind() -> None:
    """`meta` stands for a GPU: it has kinds and shapes, and no numbers."""
    actor = DeviceActor(ActorCritic(spec_of(CAMERA)), META)
    assert {parameter.device for parameter in actor._module.parameters()} == {META}
    camera = np.zeros((2, 36, 36, 3), np.uint8)
    there: Any = actor.inputs({"camera": camera, "speed": rows(2)[:, :2]})
    assert {leaf.device for leaf in there.values()} == {META}
    assert (there["camera"].dtype, there["speed"].dtype) == (torch.uint8, torch.float32)
    assert there["camera"].shape == camera.shape


def test_who_learns_from_what_it_acted_on_can_take_gradients() -> None:
    actor = DeviceActor(plain().build(), CPU, keeps=True)
    actor.act(rows(), noise())
    assert isinstance(actor.seen, Tensor)
    assert not actor.seen.is_inference()
    weight = torch.ones(4, requires_grad=True)
    (actor.seen @ weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("make", "keeps"),
    [
        (partial(DeviceActor, device=CPU, keeps=True), True),
        (partial(DeviceActor, device=CPU), False),
        (TorchActor, False),
    ],
)
def test_rows_are_kept_where_they_are_asked_for(make: Any, keeps: bool) -> None:
    actor: Actor = make(plain().build())
    actor.act(rows(), noise())
    assert (kept_rows(actor) is not None) == keeps
    assert (getattr(actor, "seen", None) is not None) == keeps
    assert not acts_row_by_row(actor)


def test_a_row_that_is_acted_on_again_takes_its_place() -> None:
    actor = DeviceActor(plain().build(), CPU, keeps=True)
    kept = kept_rows(actor)
    assert kept is not None
    observations = np.stack([rows() + t for t in range(4)])
    for t, row in ((0, 0), (1, 3), (1, 1), (2, 0), (2, 3), (2, 2)):
        actor.act(observations[row], noise())
        kept.keep(t)
    sealed = kept.sealed(observations)
    assert isinstance(sealed, Tensor)
    assert sealed.numpy().tobytes() == observations.tobytes()


def test_all_comes_back_in_one_copy_and_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    numpy = Tensor.numpy

    def counted(self: Tensor, *, force: bool = False) -> Any:
        copies.append(self.shape)
        return numpy(self, force=force)

    everything = [
        torch.tensor([True, False, True]),
        torch.tensor([[1.5, -0.0], [torch.inf, torch.nan], [2**-149, 1]]),
        torch.arange(3) - (1 << 40),
        torch.arange(12, dtype=torch.float64).reshape(3, 4)[:, ::2],
        torch.tensor(7, dtype=torch.int16).expand(3),
        torch.empty(3, 0),
    ]
    expected = [numpy(tensor.contiguous()) for tensor in everything]
    monkeypatch.setattr(Tensor, "numpy", counted)
    found = together_on_host(everything)
    assert len(copies) == 1
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert mine.tobytes() == theirs.tobytes()
