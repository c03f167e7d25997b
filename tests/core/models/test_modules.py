import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl.core.data.spaces import ActionLayout, Leaf, ObservationLayout
from rl.core.models.encoders import feature_vector
from rl.core.models.images import MOST_PLANES, ImpalaCNN, Residual
from rl.core.models.modules import ActorCritic, Module, NatureCNN, TensorTree
from rl.core.models.policy_network import CategoricalPolicy
from rl.core.models.q_network import QNetwork
from rl.core.models.spec import ADDED, NetworkSpec, PolicySpec, QNetworkSpec
from rl.errors import CheckpointError, UsageError

BOX = spaces.Box(-1, 1, (3,))
ACTION = spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (40, 48, 3), np.uint8)


def leaf(*shape: int, dtype: Any = np.uint8) -> Leaf:
    (only,) = ObservationLayout(spaces.Box(0, 255, shape, dtype)).leaves
    return only


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((84, 84, 4), 4), ((4, 84, 84), 4), ((84, 84), 1), ((36, 36, 1), 1), ((3, 40, 64), 3)],
)
def test_images_of_every_layout_give_512_features(shape: tuple[int, ...], channels: int) -> None:
    network = NatureCNN(leaf(*shape))
    first = network.convolutions[0]
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == channels
    features = network(torch.randint(0, 256, (2, *shape), dtype=torch.uint8))
    assert features.shape == (2, 512)
    assert features.dtype == torch.float32


def test_pixels_are_the_same_picture_in_either_layout() -> None:
    last, first = NatureCNN(leaf(40, 48, 3)), NatureCNN(leaf(3, 40, 48))
    first.load_state_dict(last.state_dict())
    pixels = torch.randint(0, 256, (2, 40, 48, 3), dtype=torch.uint8)
    torch.testing.assert_close(last(pixels), first(pixels.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("channels", [1, 4, MOST_PLANES, MOST_PLANES + 1])
def test_pixels_turned_by_planes_or_at_once_are_the_same_picture(channels: int) -> None:
    network, taken = NatureCNN(leaf(channels, 36, 40)), []
    network._compiled = None  # which takes pixels as they are
    network.convolutions.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    pixels = torch.randint(0, 256, (2, channels, 36, 40), dtype=torch.uint8)
    network(pixels)
    (images,) = taken
    assert torch.equal(images, pixels.float() / 255)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_bytes_are_scaled_to_one_and_floats_are_taken_as_they_are() -> None:
    as_bytes, as_floats = NatureCNN(leaf(36, 36, 3)), NatureCNN(leaf(36, 36, 3, dtype=np.float32))
    as_floats.load_state_dict(as_bytes.state_dict())
    pixels = torch.randint(0, 256, (2, 36, 36, 3), dtype=torch.uint8)
    torch.testing.assert_close(as_bytes(pixels), as_floats(pixels.float() / 255))


@pytest.mark.parametrize("shape", [(84, 84, 4), (4, 84, 84), (36, 40)])
def test_the_residual_network_of_impala(shape: tuple[int, ...]) -> None:
    network = ImpalaCNN(leaf(*shape))
    features = network(torch.randint(0, 256, (2, *shape), dtype=torch.uint8))
    assert features.shape == (2, 256)
    kinds = [type(layer).__name__ for layer in network.convolutions]
    assert kinds == [*["Conv2d", "MaxPool2d", "Residual", "Residual"] * 3, "ReLU", "Flatten"]
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 15
    block = next(layer for layer in network.modules() if isinstance(layer, Residual))
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    inputs = torch.randn(1, 16, 5, 5)
    assert torch.equal(block(inputs), inputs)  # the sum: a block that does nothing is the identity


@pytest.mark.parametrize("kind", [NetworkSpec, QNetworkSpec, PolicySpec])
def test_which_convolutions_is_a_part_of_the_description(kind: Any) -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (36, 36, 3), np.uint8), "speed": BOX})
    spec = kind(space, spaces.Discrete(2), image_encoder="impala")
    again = kind.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    build = {NetworkSpec: ActorCritic, QNetworkSpec: QNetwork, PolicySpec: CategoricalPolicy}
    module = build[kind](again)
    assert isinstance(module.encoder.images[0], ImpalaCNN)
    assert module.encoder.num_outputs == 256 + 3
    with pytest.raises(CheckpointError, match="unknown image encoder: 'resnet'"):
        kind.from_json({**spec.to_json(), "image_encoder": "resnet"})


def gain(layer: nn.Module | None) -> float:
    """Of an orthogonal layer: the singular values, which are all alike."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    assert not layer.bias.any()
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-4, atol=1e-5)
    return float(values[0])


def test_layers_are_orthogonal_with_the_usual_gains() -> None:
    module = ActorCritic(NetworkSpec(IMAGE, ACTION))
    assert module.value_torso is not None
    torsos = [module.policy_torso[0], module.policy_torso[2], module.value_torso[0]]
    images = module.encoder.images[0]
    assert isinstance(images, NatureCNN)
    for layer in [*torsos, *images.convolutions[:6:2], images.linear[0]]:
        assert gain(layer) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert gain(module.policy_head) == pytest.approx(0.01, rel=1e-4)
    assert gain(module.value_head) == pytest.approx(1.0, rel=1e-4)


def test_without_orthogonal_init_layers_are_torchs_own() -> None:
    torch.manual_seed(0)
    module = ActorCritic(NetworkSpec(BOX, ACTION, (), orthogonal_init=False))
    torch.manual_seed(0)
    expected = nn.Linear(3, 2)
    assert torch.equal(module.policy_head.weight, expected.weight)  # type: ignore[arg-type]


def test_a_shared_torso_is_one_and_separate_ones_are_two() -> None:
    shared = ActorCritic(NetworkSpec(BOX, ACTION, (4,), shared_torso=True))
    separate = ActorCritic(NetworkSpec(BOX, ACTION, (4,)))
    count = {m: sum(p.numel() for p in m.parameters()) for m in (shared, separate)}
    assert count[separate] - count[shared] == 3 * 4 + 4
    observations = torch.randn(5, 3)
    for module, reaches in ((shared, True), (separate, False)):
        module.value(observations).sum().backward()  # type: ignore[no-untyped-call]
        assert (module.policy_torso[0].weight.grad is not None) == reaches


@pytest.mark.parametrize("shared_torso", [False, True])
def test_forward_value_and_distribution_agree(shared_torso: bool) -> None:
    module = ActorCritic(
        NetworkSpec(BOX, ACTION, shared_torso=shared_torso, normalize_observations=True)
    )
    observations = torch.randn(5, 3) * 4 + 2
    module.observe(observations)
    policy, values = module(observations)
    assert values.shape == (5,)
    torch.testing.assert_close(values, module.value(observations))
    actions = policy.mode()
    torch.testing.assert_close(
        policy.log_prob(actions), module.distribution(observations).log_prob(actions)
    )


def test_log_std_starts_where_it_is_told_and_is_a_parameter_only_where_it_is_needed() -> None:
    module = ActorCritic(NetworkSpec(BOX, ACTION, log_std_init=-0.7))
    assert isinstance(module.log_std, nn.Parameter)
    torch.testing.assert_close(module.log_std.detach(), torch.tensor([-0.7, -0.7]))
    assert "log_std" in module.parameter_table().shapes
    discrete = ActorCritic(NetworkSpec(BOX, spaces.Discrete(3)))
    assert discrete.log_std is None
    assert "log_std" not in discrete.parameter_table().shapes


def test_the_parameter_table_finds_every_parameter_in_the_vector() -> None:
    module = ActorCritic(NetworkSpec(BOX, ACTION, (4, 3)))
    vector = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    views = module.parameter_table().views(vector)
    assert views.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        assert np.array_equal(views[name], parameter.detach().numpy()), name
        assert np.shares_memory(views[name], vector)


def test_categories_are_one_hot_counted_from_their_start() -> None:
    space = spaces.Dict(
        {"c": spaces.Discrete(3, start=-1), "v": spaces.Box(-9, 9, (2,), np.float64)}
    )
    module = ActorCritic(NetworkSpec(space, ACTION))
    features = feature_vector(
        module.observation_layout,
        {"c": torch.tensor([-1, 1]), "v": torch.tensor([[5.0, 6.0], [7.0, 8.0]])},
    )
    assert features.tolist() == [[1, 0, 0, 5, 6], [0, 0, 1, 7, 8]]


def test_statistics_are_learnt_in_observe_alone_and_travel_in_the_state() -> None:
    spec = NetworkSpec(BOX, ACTION, normalize_observations=True)
    module = ActorCritic(spec)
    observations = torch.randn(50, 3) * 7 + 3
    before = module.value(observations)
    module(observations)
    assert torch.equal(module.value(observations), before)
    module.observe(observations)
    assert not torch.equal(module.value(observations), before)
    other = ActorCritic(spec)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.value(observations), module.value(observations))


def test_pictures_beside_numbers_are_not_normalised_twice() -> None:
    space = spaces.Dict({"eye": IMAGE, "speed": BOX})
    module = ActorCritic(NetworkSpec(space, ACTION, normalize_observations=True))
    observations: dict[str, Tensor] = {
        "eye": torch.randint(0, 256, (4, 40, 48, 3), dtype=torch.uint8),
        "speed": torch.randn(4, 3),
    }
    module.observe(observations)
    assert module.encoder.normalizer is not None
    assert module.encoder.normalizer.mean.shape == (3,)
    assert module.value(observations).shape == (4,)


def test_statistics_of_images_alone_are_refused() -> None:
    module = ActorCritic(NetworkSpec(IMAGE, ACTION, normalize_observations=True))
    with pytest.raises(UsageError, match="no effect on images"):
        module.observe(torch.zeros(1, 40, 48, 3, dtype=torch.uint8))


def test_a_module_without_statistics_says_that_the_setting_has_no_effect() -> None:
    class Constant(Module):
        observation_layout = ObservationLayout(BOX)
        action_layout = ActionLayout(spaces.Discrete(2))

        def act(
            self, observations: TensorTree, noise: Tensor | None
        ) -> tuple[Tensor, dict[str, Tensor]]:
            assert isinstance(observations, Tensor)
            return torch.zeros(len(observations), dtype=torch.int64), {}

    module = Constant()
    with pytest.raises(UsageError, match="normalize_observations has no effect on Constant"):
        module.observe(torch.zeros(1, 3))
    assert module.describe() is None
    assert module.actor_factory() is None


def test_a_spec_comes_back_from_json_equal() -> None:
    space = spaces.Dict([("z", IMAGE), ("a", BOX)])
    spec = NetworkSpec(space, ACTION, (3,), "gelu", True, "impala", True, False, -1.5)
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "broken",
    [
        {"hidden_sizes": [0]},
        {"hidden_sizes": [1 << 30]},
        {"hidden_sizes": 3},
        {"hidden_sizes": [math.inf]},
        {"activation": "exec"},
        {"activation": ["tanh"]},
        {"observation_space": {"type": "text"}},
        {"log_std_init": "much"},
    ],
)
def test_a_hostile_description_of_a_network_is_refused(broken: dict[str, Any]) -> None:
    good = NetworkSpec(BOX, ACTION).to_json()
    with pytest.raises(CheckpointError):
        NetworkSpec.from_json(good | broken)
    for missing in good.keys() - ADDED:
        with pytest.raises(CheckpointError):
            NetworkSpec.from_json({key: good[key] for key in good if key != missing})
