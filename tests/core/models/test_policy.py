import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from rl.core.data.spaces import ActionLayout, ObservationLayout
from rl.core.models.descriptions import register_module
from rl.core.models.modules import ActorCritic, Module, TensorTree
from rl.core.models.policy import Policy
from rl.core.models.spec import NetworkSpec
from rl.errors import CheckpointError, UsageError

BOX = spaces.Box(-1, 1, (3,))
NESTED = spaces.Dict(
    [("z", spaces.Discrete(3, start=1)), ("a", spaces.Tuple([BOX, spaces.MultiBinary(2)]))]
)
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=3),
    "multi_discrete": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-0.1, 0.1, (2,), np.float64),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
}


def module(action: spaces.Space[Any], observation: spaces.Space[Any] = BOX) -> ActorCritic:
    torch.manual_seed(1)
    made = ActorCritic(NetworkSpec(observation, action, normalize_observations=True))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return made


def batch(count: int = 5) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def flat(action: Any) -> bytes:
    return (
        b"".join(np.asarray(part).tobytes() for part in action)
        if isinstance(action, tuple)
        else np.asarray(action).tobytes()
    )


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_one_observation_gives_an_action_and_a_batch_one_each(
    kind: str, deterministic: bool
) -> None:
    space = ACTIONS[kind]
    policy = Policy(module(space))
    for observation in batch(20):
        assert space.contains(policy.act(observation, deterministic))
    actions = policy.act(batch(20), deterministic)
    assert len(actions) == 20
    assert isinstance(actions, list if kind == "tuple" else np.ndarray)
    assert all(space.contains(action) for action in actions)


def test_a_batch_is_acted_on_as_its_observations_are_one_by_one() -> None:
    policy = Policy(module(ACTIONS["multi_discrete"]))
    each = [policy.act(observation) for observation in batch()]
    assert np.array_equal(policy.act(batch()), np.stack(each))


def test_composite_observations_come_single_or_as_a_batch_of_each_part() -> None:
    policy = Policy(module(ACTIONS["discrete"], NESTED))
    NESTED.seed(0)
    observations = [NESTED.sample() for _ in range(4)]
    stacked = {
        "z": np.array([o["z"] for o in observations]),
        "a": tuple(np.stack([o["a"][i] for o in observations]) for i in range(2)),
    }
    assert policy.act(stacked).tolist() == [int(policy.act(o)) for o in observations]
    assert policy.value(stacked).shape == (4,)
    mixed = stacked | {"z": np.int64(1)}
    with pytest.raises(UsageError, match="some parts"):
        policy.act(mixed)


def test_the_same_seed_draws_the_same_actions() -> None:
    made = module(ACTIONS["box"])
    drawn = [Policy(made, seed).act(batch(), deterministic=False) for seed in (3, 3, 4)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_values_and_distributions_are_those_of_the_module() -> None:
    made = module(ACTIONS["discrete"])
    policy = Policy(made)
    with torch.no_grad():
        expected = made.value(torch.tensor(batch())).numpy()
        logs = made.distribution(torch.tensor(batch())).log_prob(torch.zeros(5))
    np.testing.assert_allclose(policy.value(batch()), expected, rtol=1e-6)
    single = policy.value(batch()[0])
    assert isinstance(single, float)
    assert single == pytest.approx(expected[0], rel=1e-5)
    torch.testing.assert_close(policy.distribution(batch()).log_prob(torch.zeros(5)), logs)


def test_later_training_does_not_change_a_policy() -> None:
    made = module(ACTIONS["box"])
    policy = Policy(made)
    before, value = policy.act(batch()), policy.value(batch())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    made.observe(torch.randn(100, 3) * 50)
    assert np.array_equal(policy.act(batch()), before)
    assert np.array_equal(policy.value(batch()), value)
    assert any(parameter.requires_grad for parameter in made.parameters())


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("observation", [BOX, NESTED], ids=["box", "nested"])
def test_a_saved_policy_acts_with_the_same_bytes(
    kind: str, observation: spaces.Space[Any], tmp_path: Path
) -> None:
    made = module(ACTIONS[kind], observation)
    layout = ObservationLayout(observation)
    observation.seed(2)
    seen = [observation.sample() for _ in range(8)]
    stacked = layout.stack(seen)
    made.observe(
        {path: torch.tensor(rows) for path, rows in stacked.items()}
        if isinstance(stacked, dict)
        else torch.tensor(stacked)
    )
    policy = Policy(made, seed=5)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path, seed=5)  # the directory above it will do
    assert again.observation_space == observation
    assert again.action_space == ACTIONS[kind]
    for one in seen:
        assert flat(again.act(one)) == flat(policy.act(one))
        assert flat(again.act(one, False)) == flat(policy.act(one, False))
        assert again.value(one) == policy.value(one)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    policy = Policy(module(ACTIONS["box"]))
    policy.save(tmp_path)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        policy.save(tmp_path)


def change(**entries: Any) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / "policy.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return damage


def turn_a_bit(directory: Path) -> None:
    path = directory / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def forge_weights(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(b"not tensors")
    change(weights_sha256=hashlib.sha256(b"not tensors").hexdigest())(directory)


def other_network(directory: Path) -> None:
    path = directory / "policy.json"
    head = json.loads(path.read_text())
    head["module"]["hidden_sizes"] = [3]
    path.write_text(json.dumps(head))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (turn_a_bit, "damaged: its SHA-256 is not"),
        (forge_weights, "do not fit"),
        (other_network, "do not fit"),
        (lambda d: (d / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda d: (d / "policy.json").write_text("{"), "not a policy"),
        (lambda d: (d / "policy.json").write_bytes(b"\xff"), "not a policy"),
        (lambda d: (d / "policy.json").write_text("[]"), "not a policy"),
        (lambda d: (d / "policy.json").write_text("[" * 100_000), "not a policy"),
        (change(format=2), "format 2, this version reads 1; upgrade"),
        (change(format=1e999), "not a policy"),
        (change(module={"module": "theirs"}), "'theirs', which this program does not know"),
        (change(module={"module": ["actor_critic"]}), "does not know"),
        (change(module={"module": "actor_critic"}), "description of a network"),
        (change(module=None), "not a policy"),
    ],
)
def test_a_file_that_is_damaged_foreign_or_newer_is_refused(
    damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    Policy(module(ACTIONS["box"])).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        Policy.load(tmp_path)


def test_a_directory_without_a_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no policy, checkpoint or run"):
        Policy.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ((batch()[0], {}), r"env.reset\(\) returns"),
        (batch().T, r"expected \(3,\) for one observation or \('N', 3\)"),
        (np.zeros((2, 2, 3)), "shape"),
        ({"z": 1}, "shape|dtype|not of"),
        ([[1.0, 2.0, 3.0], [1.0]], "not of"),
        (["a", "b", "c"], "dtype"),
        (None, "shape"),
    ],
)
def test_what_is_no_observation_is_refused_in_words(observation: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Policy(module(ACTIONS["box"])).act(observation)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ({"a": (batch()[0], np.zeros(2, int))}, "not of"),  # z is missing
        ({"z": 4, "a": (batch()[0], np.zeros(2, int))}, "'z' has a category outside"),
        ({"z": 1.5, "a": (batch()[0], np.zeros(2, int))}, "'z' is of dtype float64"),
        ({"z": 1, "a": (batch()[0],)}, "not of"),
    ],
)
def test_a_part_that_does_not_fit_is_named(observation: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Policy(module(ACTIONS["box"], NESTED)).act(observation)


class Leftmost(Module):
    """Knows neither values nor distributions."""

    observation_layout = ObservationLayout(BOX)
    action_layout = ActionLayout(spaces.Discrete(2))

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def act(
        self, observations: TensorTree, noise: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(observations, Tensor)
        return self.bias.argmax().expand(len(observations)), {}

    def describe(self) -> dict[str, Any]:
        return {"module": "leftmost"}


def build_leftmost(description: Mapping[str, Any]) -> Module:
    return Leftmost()


def test_a_registered_module_of_ones_own_is_saved_and_loaded(tmp_path: Path) -> None:
    made = Leftmost()
    with torch.no_grad():
        made.bias[1] = 1.0
    Policy(made).save(tmp_path)
    register_module("leftmost", build_leftmost)
    register_module("leftmost", build_leftmost)  # again is no harm
    policy = Policy.load(tmp_path)
    assert policy.act(batch()).tolist() == [1] * 5
    with pytest.raises(UsageError, match="no value function"):
        policy.value(batch())
    with pytest.raises(UsageError, match="no distribution"):
        policy.distribution(batch())
    with pytest.raises(UsageError, match="taken"):
        register_module("actor_critic", build_leftmost)


def test_a_module_that_does_not_describe_itself_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leftmost, "describe", lambda self: None)
    with pytest.raises(UsageError, match="describe"):
        Policy(Leftmost()).save(tmp_path / "p")
    assert not (tmp_path / "p" / "policy.json").exists()
