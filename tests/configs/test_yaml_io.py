"""Settings files: what is written reads back equal; what is read is not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.configs import PPOConfig
from rl.configs.yaml_io import from_yaml, load_settings, read_scalar, read_settings, to_yaml
from rl.errors import ConfigError, UsageError

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        ["1e5", "1e-4", "-2E+3", "yes", "null", "~", "2020-01-01", "0x1F", "1:30", "<<"]
    )
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
positive = st.floats(min_value=1e-12, max_value=1e12)


@settings(max_examples=60, deadline=None)
@given(
    env=st.text(min_size=1).filter(str.strip),
    env_kwargs=st.dictionaries(st.text(), plain, max_size=4),
    learning_rate=positive,
    target_kl=st.none() | positive,
    hidden_sizes=st.lists(st.integers(1, 4096), max_size=3),
    normalize=st.booleans(),
    num=st.integers(1, 9),
)
def test_what_is_written_reads_back_equal(
    env: str,
    env_kwargs: dict[str, Any],
    learning_rate: float,
    target_kl: float | None,
    hidden_sizes: list[int],
    normalize: bool,
    num: int,
) -> None:
    made = PPOConfig(
        env=env,
        env_kwargs=env_kwargs,
        learning_rate=learning_rate,
        target_kl=target_kl,
        hidden_sizes=tuple(hidden_sizes),
        normalize_rewards=normalize,
    ).with_env_runners(num=num)
    again = from_yaml(PPOConfig, to_yaml(made))
    assert again == made
    assert again.values().keys() == made.values().keys()
    assert repr(again.env_kwargs) == repr(
        made.env_kwargs
    )  # 1, 1.0 and True are equal, not the same


def test_the_algorithm_is_named_first() -> None:
    assert to_yaml(PPOConfig()).startswith("algo: ppo\n")


def test_a_callable_is_refused_by_name_with_the_fix() -> None:
    def make_maze() -> None: ...

    with pytest.raises(ConfigError) as error:
        to_yaml(PPOConfig(env=make_maze, env_kwargs={"rng": object()}))
    first, second = error.value.problems
    assert first.path == "env"
    assert "register_env" in first.message
    assert second.path == "env_kwargs.rng"


def test_problems_tell_their_lines() -> None:
    text = "gamma: 3\nenv_runners:\n  num: 2\n  envs: 3\nclip_rang: 1\n"
    with pytest.raises(ConfigError) as error:
        from_yaml(PPOConfig, text, "a.yaml")
    found = {problem.path: problem.message for problem in error.value.problems}
    assert found["gamma"].endswith("(a.yaml line 1)")
    assert found["env_runners.envs"].endswith("(a.yaml line 4)")
    assert found["clip_rang"].endswith("did you mean `clip_range`? (a.yaml line 5)")


def test_an_exponent_needs_no_dot_to_be_a_number() -> None:
    assert read_settings("env_kwargs: {x: 1e-4, y: '1e-4'}").values["env_kwargs"] == {
        "x": 1e-4,
        "y": "1e-4",
    }


def test_a_key_given_twice_is_an_error_in_any_depth() -> None:
    with pytest.raises(ConfigError) as error:
        read_settings("gamma: 1\nlearners:\n  threads: 1\n  threads: 2\ngamma: 2\n", "a.yaml")
    assert [str(problem) for problem in error.value.problems] == [
        "learners.threads: is given twice, first in line 3 (a.yaml line 4)",
        "gamma: is given twice, first in line 1 (a.yaml line 5)",
    ]


BILLION = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: !!python/object/apply:os.system [ls]", "plain values only"),
        ("x: !!python/name:os.system", "no setting"),
        ("seed: 2020-01-01", "in quotes"),
        ("- 1\n- 2", "`name: value`"),
        ("gamma: [1,", "is not YAML: .* line 1 column 11"),
        ("a: 1\n\tb: 2", "is not YAML"),
        ("a: 1\n--- \nb: 2", "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("[" * 5000, "nests deeper"),
        ("{a: " * 40 + "1" + "}" * 40, "nests deeper"),
        (BILLION, "repeats too much"),
        ("env_kwargs: &x {a: *x}", "nests too deeply"),
        ("algo: [ppo]", "algo: must be the name"),
        ("5: 6", "no name of a setting"),
        ("[1, 2]: 6", "single word"),
        ("x: " + "1" * 300_000, "too large"),
    ],
)
def test_what_is_no_settings_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_settings(text)


def test_an_empty_file_has_no_settings() -> None:
    assert read_settings("# nothing\n").values == {}


def test_settings_of_another_algorithm_are_refused() -> None:
    with pytest.raises(ConfigError, match="algo: is sac, which is not PPOConfig"):
        from_yaml(PPOConfig, "algo: sac\ngamma: 0.9\n")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_settings(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_settings(tmp_path / "binary.yaml")
    (tmp_path / "config.yaml").write_text("algo: ppo\ngamma: 0.5\n")
    with pytest.raises(UsageError, match=r"did you mean .*config\.yaml"):
        load_settings(tmp_path)
    assert load_settings(tmp_path / "config.yaml") == ("ppo", {"gamma": 0.5})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("a: b", "a: b"),
        ("[1", "[1"),
        ("x", "x"),
    ],
)
def test_a_word_means_what_it_means_in_a_file(text: str, value: object) -> None:
    assert read_scalar(text) == value
