"""`check_env` on vector environments: their results, and how they go on after an episode's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from rl.cli.main import rl_main
from rl.errors import EnvironmentFault
from rl.testing import check_env
from rl.testing.environments import EnvironmentReport, inspect_env

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Walks(VectorEnv[Any, Any, Any]):
    """Sound in every mode: random walks from a random place, over when they leave [-1, 1]."""

    def __init__(self, num_envs: int, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.mode = mode
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.places = np.zeros(num_envs)
        self.over = np.zeros(num_envs, np.bool_)

    def begin(self, chosen: Any) -> None:
        for b in np.flatnonzero(chosen):
            self.places[b] = self.generators[b].uniform(-0.5, 0.5)
        self.over = self.over & ~chosen

    def observe(self) -> Any:
        return self.places[:, None].astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.generators = [np.random.default_rng(seed + b) for b in range(self.num_envs)]
        everybody = np.ones(self.num_envs, np.bool_)
        self.begin(everybody if options is None else options["reset_mask"])
        return self.observe(), {}

    def step(self, actions: Any) -> Any:
        passed = self.over.copy()
        if self.mode is AutoresetMode.NEXT_STEP:
            self.begin(passed)
        assert not self.over.any(), "stepped after its end"
        drift = np.array([generator.uniform(0.2, 0.4) for generator in self.generators])
        self.places += np.where(passed, 0, np.where(actions == 1, drift, -drift))
        self.over = np.abs(self.places) > 1
        return self.finish(np.where(passed, 0.0, 1.0), self.over.copy())

    def finish(self, rewards: Any, ended: Any) -> Any:
        infos: dict[str, Any] = {}
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            infos["final_obs"] = self.observe()
            self.begin(ended)
        return self.observe(), rewards, ended, np.zeros_like(ended), infos


def report_of(make: Callable[..., Any], steps: int = 300) -> EnvironmentReport:
    return inspect_env(make, steps=steps)


@pytest.mark.parametrize("mode", MODES)
def test_a_sound_one_is_sound_in_every_mode(mode: AutoresetMode) -> None:
    def make(num_envs: int) -> Walks:
        return Walks(num_envs, mode)

    report = report_of(make)
    assert report.problems == []
    assert report.notes == []
    assert report.facts["vectorized"] == f"3 environments, autoreset mode {mode.name}"
    assert report.facts["restorable"].startswith("no: a vector environment is seeded once")
    assert "ended" in report.facts["episodes"]
    assert "transitions take" in report.facts["replay"]


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_own_are_sound(mode: AutoresetMode) -> None:
    """One that is not asked how many it holds is taken as it is."""

    def make() -> Any:
        make_one = lambda: gymnasium.make("CartPole-v1")  # noqa: E731
        return SyncVectorEnv([make_one] * 2, autoreset_mode=mode)

    report = report_of(make)
    assert report.problems == []
    assert report.facts["vectorized"].startswith("2 environments")
    check_env(make, steps=100)


class Undeclared(Walks):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.metadata = {}


class UndeclaredDisabled(Walks):
    """Cannot be stepped after an end, and does not say so."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, AutoresetMode.DISABLED)
        self.metadata = {}


class Misspelt(Walks):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.metadata = {"autoreset_mode": "next step"}  # type: ignore[dict-item]


class TooFew(Walks):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs - 1)


class WrongShape(Walks):
    def observe(self) -> Any:
        return self.places.astype(np.float32)


class OutOfBounds(Walks):
    def observe(self) -> Any:
        return self.places[:, None].astype(np.float32) + 5


class NotANumber(Walks):
    def finish(self, rewards: Any, ended: Any) -> Any:
        rewards = np.where(np.arange(self.num_envs) == 1, np.nan, rewards)
        return super().finish(rewards, ended)


class OneReward(Walks):
    def finish(self, rewards: Any, ended: Any) -> Any:
        return super().finish(float(rewards[0]), ended)


class FourValues(Walks):
    def finish(self, rewards: Any, ended: Any) -> Any:
        observations, rewards, ended, _, infos = super().finish(rewards, ended)
        return observations, rewards, ended, infos


class BareReset(Walks):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options=options)[0]


class OneSeed(Walks):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed, options=options)
        self.generators = [np.random.default_rng(seed) for _ in range(self.num_envs)]
        self.begin(np.ones(self.num_envs, np.bool_))
        return self.observe(), {}


class NoSeed(Walks):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.generators = [np.random.default_rng() for b in range(self.num_envs)]
        return super().reset(options=options)


class Forgetful(Walks):
    """Resets in the same step, and does not tell what it ended on."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, AutoresetMode.SAME_STEP)

    def finish(self, rewards: Any, ended: Any) -> Any:
        return (*super().finish(rewards, ended)[:4], {})


class Mistold(Walks):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, AutoresetMode.SAME_STEP)

    def finish(self, rewards: Any, ended: Any) -> Any:
        *result, infos = super().finish(rewards, ended)
        return (*result, {"final_obs": None} if infos else {})


class OtherMode(Walks):
    """Resets in the same step, and says the next."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, AutoresetMode.SAME_STEP)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}


class NeverResets(Walks):
    """Says that the next step resets, and leaves it to whoever steps it."""

    def begin(self, chosen: Any) -> None:
        if len(set(chosen.tolist())) == 1 and chosen[0]:
            super().begin(chosen)
        self.over[:] = False


class ResetsAll(Walks):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, AutoresetMode.DISABLED)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


DEFECTS: list[tuple[type[Walks], str]] = [
    (Undeclared, r"does not declare how it goes on .*; set metadata = {\"autoreset_mode\":"),
    (UndeclaredDisabled, r"does not declare how it goes on .*; set metadata"),
    (Misspelt, r"the autoreset mode 'next step', which is none .*; set metadata ="),
    (TooFew, r"asked for num_envs=3 it made 2; let it make as many"),
    (WrongShape, r"reset\(seed=0\) returned an observation of shape \(3,\), its space says"),
    (OutOfBounds, r"index \[0, 0\], outside its bounds -2\.0 to 2\.0; clip it, or widen"),
    (NotANumber, r"step 1 returned the reward nan of environment 1; find where it arises"),
    (OneReward, r"step 1: step returned rewards of shape \(\)"),
    (FourValues, r"step 1: step returned a tuple, expected the tuple \(observations, rewards"),
    (BareReset, r"reset\(seed=0\) returned a ndarray, not the tuple .*return observations, {}"),
    (OneSeed, r"begins all 3 environments alike.*; give environment i the seed \+ i"),
    (NoSeed, r"differ in two vector environments, in the observations of reset"),
    (Forgetful, r"infos has no 'final_obs'; the autoreset mode SAME_STEP.*give it"),
    (Mistold, r"infos\['final_obs'\]\[\d\] is no observation of its space; put there"),
    (OtherMode, r"but metadata\['autoreset_mode'\] is NEXT_STEP: set it to AutoresetMode.SAME"),
    (NeverResets, r"ended in the step before, and this one ends it again"),
    (ResetsAll, r"changed the observation of environment \d, where the mask is False"),
]


@pytest.mark.parametrize(("defect", "said"), DEFECTS, ids=[kind.__name__ for kind, _ in DEFECTS])
def test_the_doctor_names_each_fault_and_no_other(
    defect: type[Walks], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gymnasium.register("Broken-v0", vector_entry_point=defect)
    try:
        assert rl_main(["doctor", "Broken-v0", "--steps", "300"]) == 3
    finally:
        del gymnasium.registry["Broken-v0"]
    told = capsys.readouterr().out
    assert told.count("\n  problem: ") == 1
    assert "\n  note: " not in told
    with pytest.raises(EnvironmentFault, match=said):
        check_env(defect, steps=300)


def test_what_is_no_vector_environment_is_told() -> None:
    def make(num_envs: int) -> Any:
        return gymnasium.make("CartPole-v1")

    assert "without num_envs, single_observation_space" in report_of(make).problems[0]


def test_steps_of_all_environments_count_and_rows_that_only_reset_do_not() -> None:
    rows = []

    class Counted(Walks):
        def step(self, actions: Any) -> Any:
            rows.append(3 - int(self.over.sum()))
            return super().step(actions)

    report_of(Counted, 300)
    assert 300 <= sum(rows[400:]) < 303  # what comes before is for comparisons


def test_masked_actions_are_kept_to() -> None:
    class Masked(Walks):
        """Allows the way to the middle alone."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return super().reset(seed=seed, options=options)[0], self.mask()

        def mask(self) -> dict[str, Any]:
            inwards = self.places < 0
            return {"action_mask": np.stack((~inwards, inwards), 1).astype(np.int8)}

        def step(self, actions: Any) -> Any:
            assert (actions == (self.places < 0)).all(), "not allowed"
            return (*super().step(actions)[:4], self.mask())

    report = report_of(Masked)
    assert report.problems == []
    assert report.notes == ["no episode ended in 200 rows"]
