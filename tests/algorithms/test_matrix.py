"""Every algorithm on every combination of spaces it can take; `docs/spaces.md` is made from it.

Run `python -m tests.algorithms.test_matrix` to write the page anew.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from rl.algorithms.registry import algorithm_names, config_class
from rl.env_runners.environments import describe_env
from rl.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "spaces.md"

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "Box": BOX,
    "Box, image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "Discrete": spaces.Discrete(4, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "MultiBinary": spaces.MultiBinary(3),
    "Dict": spaces.Dict({"where": BOX, "which": spaces.Discrete(3)}),
    "Tuple": spaces.Tuple([BOX, spaces.MultiBinary(2)]),
    "nested": spaces.Dict({"a": spaces.Tuple([BOX, spaces.Dict({"b": spaces.Discrete(2)})])}),
}
SMALL_BOX = spaces.Box(np.float32([-2, 0]), np.float32([1, 3]))
ACTIONS: dict[str, spaces.Space[Any]] = {
    "Discrete": spaces.Discrete(3, start=5),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": SMALL_BOX,
    "Dict": spaces.Dict({"press": spaces.Discrete(2), "steer": SMALL_BOX}),
    "Tuple": spaces.Tuple([spaces.Discrete(2, start=1), spaces.MultiBinary(2)]),
}
MASKABLE = ("Discrete", "MultiDiscrete")


class AnySpaces(gymnasium.Env[Any, Any]):
    """Random observations; every action is checked to be one of the space, and allowed."""

    def __init__(self, observed: str, acted: str, masked: bool = False) -> None:
        self.observation_space = OBSERVATIONS[observed]
        self.action_space = ACTIONS[acted]
        self.choices = 0
        if masked:
            space = self.action_space
            assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
            several = isinstance(space, spaces.MultiDiscrete)
            self.sizes = [int(n) for n in space.nvec] if several else [int(space.n)]
            self.choices = sum(self.sizes)
            mask = spaces.MultiBinary(self.choices)
            self.observation_space = spaces.Dict(
                {"seen": OBSERVATIONS[observed], "action_mask": mask}
            )

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        observation = self.observation_space.sample()
        if self.choices:
            allowed = np.ones(self.choices, np.int8)
            ends = np.cumsum(self.sizes)
            for end, size in zip(ends, self.sizes, strict=True):
                allowed[end - 1 - self.np_random.integers(size)] = 0  # one of each is forbidden
            self.mask = observation["action_mask"] = allowed
        return observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        if self.choices:
            space: Any = self.action_space
            begins = np.cumsum([0, *self.sizes[:-1]])
            assert self.mask[begins + np.atleast_1d(action) - getattr(space, "start", 0)].all()
        self.steps += 1
        end = self.steps == 7
        return self._observe(), float(self.np_random.random()), end, False, {}


def config_of(name: str, engine: str, **env_kwargs: Any) -> Any:
    """A few short iterations, with updates in each."""
    settings = config_class(name)
    given: dict[str, Any] = {
        "env": AnySpaces,
        "env_kwargs": env_kwargs,
        "hidden_sizes": (8,),
        "rollout_length": 8,
        "env_runners": {"num": 2 if engine == "process" else 1, "envs_per_runner": 2},
        "runtime": {"engine": engine},
    }
    replay = {"buffer_size": 200, "batch_size": 8, "learning_starts": 8, "updates_per_step": 0.1}
    on_policy = {"minibatch_size": 8, "num_epochs": 1}
    given |= replay if hasattr(settings, "buffer_size") else on_policy
    return settings(**given)


def has_memory(name: str) -> bool:
    """Whether an algorithm can remember."""
    return hasattr(config_class(name), "memory")


def takes(name: str, acted: str, masked: bool) -> bool:
    """Whether an algorithm says it can act so."""
    kind = acted.lower().replace("multid", "multi_d").replace("multib", "multi_b")
    return kind in config_class(name).supported_actions and (not masked or acted in MASKABLE)


COMBINATIONS = [
    (name, observed, acted, masked)
    for name, observed, acted, masked in itertools.product(
        algorithm_names(), OBSERVATIONS, ACTIONS, (False, True)
    )
    if not masked or acted in MASKABLE
]


def is_quick(name: str, observed: str, acted: str, masked: bool) -> bool:
    """One row and one column of the table, for every day; all of it runs where there is time."""
    return takes(name, acted, masked) and (
        (observed == "nested" and acted in ("Discrete", "Box", "Dict"))
        or (observed == "Dict" and masked)
    )


def train(config: Any, iterations: int = 3) -> None:
    with config.build() as algorithm:
        for _ in range(iterations):
            result = algorithm.train()
        assert result.env_steps == iterations * 8 * config.num_environments
        assert all(np.isfinite(v) for k, v in result.metrics.items() if k.endswith("loss"))
        algorithm.evaluate(2)


@pytest.mark.parametrize(
    ("name", "observed", "acted", "masked"),
    [
        pytest.param(*combination, marks=() if is_quick(*combination) else pytest.mark.slow)
        for combination in COMBINATIONS
        if takes(*(combination[0], *combination[2:]))
    ],
)
def test_it_trains(name: str, observed: str, acted: str, masked: bool) -> None:
    train(config_of(name, "inline", observed=observed, acted=acted, masked=masked))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "observed", "acted", "masked"),
    [c for c in COMBINATIONS if takes(c[0], *c[2:])],
)
def test_it_trains_on_processes(name: str, observed: str, acted: str, masked: bool) -> None:
    train(config_of(name, "process", observed=observed, acted=acted, masked=masked), 2)


@pytest.mark.parametrize(
    ("name", "observed", "acted", "masked"),
    [
        pytest.param(*combination, marks=() if is_quick(*combination) else pytest.mark.slow)
        for combination in COMBINATIONS
        if takes(*(combination[0], *combination[2:])) and has_memory(combination[0])
    ],
)
@pytest.mark.parametrize("engine", ["inline", pytest.param("process", marks=pytest.mark.slow)])
@pytest.mark.parametrize("memory", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_it_trains_with_memory(
    name: str, observed: str, acted: str, masked: bool, memory: str, engine: str
) -> None:
    config = config_of(name, engine, observed=observed, acted=acted, masked=masked)
    train(replace(config, memory=memory, memory_size=8, sequence_length=4), 2)


@pytest.mark.parametrize(
    ("name", "acted"),
    [(n, a) for n in algorithm_names() for a in ACTIONS if not takes(n, a, False)],
)
def test_what_it_cannot_do_is_refused_by_name(name: str, acted: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} can act in .* only; choose another") as refused:
        describe_env(config_of(name, "inline", observed="Box", acted=acted))
    assert refused.value.exit_code == 2


def page() -> str:
    """The table, from what the tests train."""
    names = list(algorithm_names())
    lines = [
        "# What can be observed and done",
        "",
        "Made by `python -m tests.algorithms.test_matrix`; every combination below is trained for",
        "a few iterations, inline and on processes: some by `make test`, all by `make test-slow`.",
        "",
        "Every algorithm takes each of these observations: " + "; ".join(OBSERVATIONS) + ".",
        'An action mask is the part `action_mask` of a Dict observation, or `info["action_mask"]`.',
        "",
        "| actions | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for acted, masked in [(a, False) for a in ACTIONS] + [(a, True) for a in MASKABLE]:
        cells = ["yes" if takes(name, acted, masked) else "refused" for name in names]
        label = f"{acted}, masked" if masked else acted
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    cells = ["yes" if has_memory(name) else "refused" for name in names]
    lines.append("| any of them, with memory | " + " | ".join(cells) + " |")
    refused = "Refused is refused by name, with exit code 2, before anything runs."
    return "\n".join([*lines, "", refused, ""])


def test_the_page_tells_what_is_trained() -> None:
    assert PAGE.read_text("utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
