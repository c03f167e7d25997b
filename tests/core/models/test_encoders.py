"""Encoders of the user's own: what they see, and the rules they must keep."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.data.spaces import ObservationLayout
from rl.core.models.encoder_rules import encoder_problems
from rl.core.models.encoders import CustomEncoder, encoder_class
from rl.core.models.modules import ActorCritic
from rl.core.models.spec import NetworkSpec
from rl.errors import UsageError
from rl.testing import check_module
from tests.algorithms.networks import Parts, Wide

BOX = spaces.Box(-1, 1, (3,), np.float32)
DICT = spaces.Dict(
    {
        "action_mask": spaces.MultiBinary(2),
        "numbers": spaces.Box(-1, 1, (2, 2), np.float64),
        "place": spaces.Discrete(5, start=3),
        "speed": spaces.Box(-1, 1, (1,), np.float32),
    }
)


class Spy(nn.Module):
    """Keeps what it was given; its features are the numbers."""

    seen: Any = None

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__()

    def forward(self, observations: Any) -> Tensor:
        Spy.seen = observations
        numbers: Tensor = observations
        if isinstance(observations, dict):
            numbers = observations["numbers"]
        return numbers.flatten(1)


def test_it_sees_rows_whatever_axes_a_batch_has() -> None:
    encoder = CustomEncoder(ObservationLayout(BOX), False, Spy, {})
    assert encoder.num_outputs == 3
    batch = torch.arange(24.0).reshape(4, 2, 3)
    assert torch.equal(encoder(batch), batch)
    assert Spy.seen.shape == (8, 3)
    assert torch.equal(encoder(batch[0, 0]), batch[0, 0])


def test_of_a_dict_it_sees_every_part_but_the_mask_in_its_own_dtype() -> None:
    encoder = CustomEncoder(ObservationLayout(DICT), False, Spy, {})
    observations = {
        "action_mask": torch.ones(6, 2, dtype=torch.bool),
        "numbers": torch.rand(6, 2, 2),
        "place": torch.tensor([3, 4, 5, 6, 7, 3]),
        "speed": torch.rand(6, 1),
    }
    assert torch.equal(encoder(observations), observations["numbers"].flatten(1))
    assert Spy.seen.keys() == {"numbers", "place", "speed"}
    assert Spy.seen["place"].tolist() == [3, 4, 5, 6, 7, 3]
    assert Spy.seen["place"].dtype == torch.int64


def test_numbers_come_normalised_where_that_is_wanted_and_categories_do_not() -> None:
    encoder = CustomEncoder(ObservationLayout(DICT), True, Spy, {})
    generator = torch.Generator().manual_seed(0)
    numbers = 5 + 3 * torch.randn(2000, 2, 2, generator=generator)
    observations = {
        "action_mask": torch.ones(2000, 2, dtype=torch.bool),
        "numbers": numbers,
        "place": torch.full((2000,), 4),
        "speed": 9 + torch.randn(2000, 1, generator=generator),
    }
    encoder.observe(observations)
    encoder(observations)
    for name in ("numbers", "speed"):
        raw = observations[name]
        assert torch.allclose(Spy.seen[name], (raw - raw.mean(0)) / raw.std(0), atol=0.01)
    assert set(Spy.seen["place"].tolist()) == {4}


def test_an_actor_critic_with_one_is_a_sound_module() -> None:
    for normalize in (False, True):
        spec = NetworkSpec(
            DICT, spaces.Discrete(2), normalize_observations=normalize, encoder=Parts
        )
        check_module(lambda spec=spec: ActorCritic(spec), batch=20)  # type: ignore[misc]


def test_the_kit_finds_an_encoder_sound_or_tells_all_that_is_wrong() -> None:
    check_module(lambda: Wide(BOX), observation_space=BOX)
    with pytest.raises(AssertionError, match="BatchNorm and Dropout") as told:
        check_module(lambda: Both(BOX), observation_space=BOX)
    assert len(str(told.value).splitlines()) == 2
    with pytest.raises(AssertionError, match="needs observation_space"):
        check_module(lambda: Wide(BOX))


class Silent(Wide):
    def forward(self, observations: Tensor) -> Any:
        super().forward(observations)


class Flat(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).flatten()


class Raising(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return observations @ torch.zeros(7, 2)


class Doubles(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations).double()


class Dividing(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) / 0


class Overwriting(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        features = super().forward(observations)
        observations.zero_()
        return features


class Drawing(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) + torch.rand(8)


class Mixing(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        features = super().forward(observations)
        return features - features.mean(0)


class Dropping(Wide):
    def forward(self, observations: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(observations), 0.5, self.training)


class Batching(Wide):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.norm(super().forward(observations))
        return features


class Outside(Wide):
    """Scales by a number of its own that no file holds."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.scale = 1 + random.random()

    def forward(self, observations: Tensor) -> Tensor:
        return self.scale * super().forward(observations)


class Precise(Wide):
    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.register_parameter("shift", nn.Parameter(torch.zeros(8, dtype=torch.float64)))

    def forward(self, observations: Tensor) -> Tensor:
        return super().forward(observations) + self.shift.float()


class Both(Dropping, Overwriting):
    pass


class Needy(Wide):
    def __init__(self, observation_space: spaces.Box, width: int, depth: int) -> None:
        super().__init__(observation_space, width * depth)


RULES: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: Silent(BOX), "returned a NoneType; return one tensor"),
    (lambda: Flat(BOX), r"tensor of shape \(32,\); return a row .*\[4, features\]"),
    (
        lambda: Raising(BOX),
        r"given a torch.float32 tensor of shape \(4, 3\), and raised RuntimeError: mat1",
    ),
    (lambda: Doubles(BOX), "gives features of torch.float64; give float32"),
    (lambda: Dividing(BOX), "gives features that are not finite"),
    (lambda: Overwriting(BOX), "changes the observations it is given; work on a copy"),
    (lambda: Drawing(BOX), r"same observations in eval\(\); draw no random numbers"),
    (lambda: Mixing(BOX), "a row other features when it stands alone"),
    (lambda: Dropping(BOX), "BatchNorm and Dropout do: .* use LayerNorm"),
    (lambda: Batching(BOX), "BatchNorm and Dropout do: .* use LayerNorm"),
    (lambda: Outside(BOX), "not in its state_dict, .* self.register_buffer"),
    (lambda: Precise(BOX), "the parameter shift of torch.float64; make it float32"),
    (lambda: Needy(BOX), r"encoder_kwargs: TypeError: .*'width' and 'depth'"),  # type: ignore[call-arg]
]


@pytest.mark.parametrize(("make", "said"), RULES)
def test_a_rule_that_is_broken_is_told_and_no_other(
    make: Callable[[], nn.Module], said: str
) -> None:
    before, space = torch.get_rng_state(), copy.deepcopy(BOX)
    space.seed(5)
    (told,) = encoder_problems(make, ObservationLayout(space))
    drawn = space.sample()
    space.seed(5)
    assert np.array_equal(drawn, space.sample())  # nobody else drew from it
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(told)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no_such_package.nets:Net", "names the module no_such_package, which Python does not"),
        ("tests.algorithms.networks:Wid", "has no 'Wid'; did you mean .*networks:Wide"),
        ("os:getcwd", "not a class that derives from torch.nn.Module"),
        ("subprocess:Popen", "not a class that derives from torch.nn.Module"),
        ("tests.algorithms.networks:f.<locals>.Net", "defined inside a function"),
    ],
)
def test_a_name_that_stands_for_no_encoder_is_refused(reference: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        encoder_class(reference)
