"""Config classes are found by name, and what hinders it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl.algorithms.registry import config_class, load_config, read_config
from rl.configs import AlgorithmConfig, PPOConfig, config
from rl.configs.references import UserImportError
from rl.configs.yaml_io import to_yaml
from rl.errors import ConfigError, UsageError

OWN = '''
from rl.configs import AlgorithmConfig, config

@config
class MyConfig(AlgorithmConfig):
    """Mine."""
    horizon: int = 3
    """Steps."""

class Unmarked(AlgorithmConfig):
    horizon: int = 3
'''


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "registry_own.py").write_text(OWN)
    (tmp_path / "registry_broken.py").write_text("raise ValueError('mine')")
    (tmp_path / "registry_needy.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    return "registry_own"


def test_a_short_name_and_a_path_find_the_class(own_module: str) -> None:
    assert config_class("ppo") is PPOConfig
    assert config_class("rl.configs.ppo:PPOConfig") is PPOConfig
    found = config_class(f"{own_module}:MyConfig")
    assert issubclass(found, AlgorithmConfig)
    assert found.reference() == "registry_own:MyConfig"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pp0", "did you mean 'ppo'"),
        ("zzz", "there are ppo"),
        ("no_such_module.inner:X", "names the module no_such_module, which Python does not find"),
        ("registry_own:MyConfi", "did you mean registry_own:MyConfig"),
        ("registry_own:config", "not a subclass of rl.AlgorithmConfig"),
        ("registry_own:Unmarked", "write @rl.config above"),
        (":X", "no algorithm ':X'"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(own_module: str, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config_class(name)


def test_the_users_own_error_is_kept(own_module: str) -> None:
    with pytest.raises(UserImportError, match="registry_broken raised ValueError: mine") as error:
        config_class("registry_broken:X")
    assert isinstance(error.value.__cause__, ValueError)
    with pytest.raises(UserImportError, match="needs the module no_such_library") as needy:
        config_class("registry_needy:X")
    assert isinstance(needy.value.__cause__, ModuleNotFoundError)


def test_a_whole_config_reads_back_whatever_its_class(own_module: str, tmp_path: Path) -> None:
    made = config_class(f"{own_module}:MyConfig")(horizon=5)  # type: ignore[call-arg]
    assert read_config(to_yaml(made)) == made
    (tmp_path / "config.yaml").write_text(to_yaml(made))
    assert load_config(tmp_path / "config.yaml") == made


def test_a_damaged_config_tells_the_line() -> None:
    with pytest.raises(ConfigError, match=r"gamma.*\(old line 2\)"):
        read_config("algo: ppo\ngamma: 7\n", "old")
    with pytest.raises(UsageError, match="no `algo:` line"):
        read_config("gamma: 0.5\n")


def test_marking_a_config_twice_over_inherits_settings() -> None:
    @config
    class Longer(PPOConfig):
        """PPO with one setting more."""

        tail: int = 1
        """Steps."""

    assert Longer(tail=2, clip_range=0.3).tail == 2
    with pytest.raises(ConfigError, match="minibatch_size"):
        Longer(minibatch_size=10**6).checked()
