"""Every setting explains itself, because help, docs and messages are made from that."""

import dataclasses
import importlib
import pkgutil

import pytest

import rl.configs
from rl.configs.ppo import PPOConfig


def config_classes() -> list[type]:
    classes: dict[str, type] = {}
    for module in pkgutil.walk_packages(rl.configs.__path__, "rl.configs."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and hasattr(value, "__pydantic_fields__"):
                classes[f"{value.__module__}.{value.__qualname__}"] = value
    return list(classes.values())


def test_the_configs_are_found() -> None:
    assert PPOConfig in config_classes()


@pytest.mark.parametrize("config", config_classes(), ids=lambda config: config.__name__)
def test_every_setting_has_a_docstring(config: type) -> None:
    """An overridden default may leave the words to the class that declared the setting."""
    documented = {
        name
        for base in config.__mro__
        for name, field in getattr(base, "__pydantic_fields__", {}).items()
        if field.description
    }
    assert {field.name for field in dataclasses.fields(config)} - documented == set()


def test_ppo_can_still_be_surveyed() -> None:
    settings = dataclasses.fields(PPOConfig)
    sections = [field for field in settings if dataclasses.is_dataclass(field.default)]
    inner = sum(len(dataclasses.fields(field.default)) for field in sections)  # type: ignore[arg-type]
    assert sections
    assert len(settings) - len(sections) + inner <= 68
