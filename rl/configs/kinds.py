"""Kinds of settings: what a value may be, and what is made of what a file or a flag says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from rl.configs.describe import Words
from rl.configs.frozen import FrozenDict
from rl.configs.references import is_importable, name_of

__all__ = [
    "Amounts",
    "AtLeastOne",
    "Device",
    "Encoder",
    "Environment",
    "NotNegative",
    "Positive",
    "Table",
    "Threads",
    "Variables",
]


def _environment(value: object) -> object:
    if callable(value) or (isinstance(value, str) and value.strip()):
        return value
    raise PydanticCustomError("environment", "not an environment")


def _encoder(value: object) -> object:
    """The name of a class where every process would find it by that; else the class itself."""
    if isinstance(value, str) and value.startswith("__main__:"):
        value = getattr(sys.modules["__main__"], value.removeprefix("__main__:"), value)
    if isinstance(value, type):
        return name_of(value) if is_importable(value) else value
    if value is None or (isinstance(value, str) and all(value.partition(":"))):
        return value
    raise PydanticCustomError("encoder", "not the name of a class")


def _threads(value: object) -> object:
    """A number of threads, also one written as text, or auto."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if number == "auto" or (type(number) is int and number >= 1):
        return number
    raise PydanticCustomError("threads", "not a number of threads")


def _plain(value: Any) -> Any:
    """Makes tuples lists, which is what a settings file can hold, and dicts copies."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _frozen(value: Mapping[str, Any]) -> FrozenDict:
    return FrozenDict(_plain(value))


def _as_text(value: object) -> object:
    """Numbers are what a file or a flag makes of `1`; a variable of a process is always text."""
    if not isinstance(value, Mapping):
        return value
    return {k: str(v) if type(v) in (int, float) else v for k, v in value.items()}


Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Environment = Annotated[
    str | Callable[..., Any],
    PlainValidator(_environment),
    Words("an environment's id (`CartPole-v1`, `my_package.envs:Maze-v0`) or a callable"),
]
Encoder = Annotated[
    str | type | None,
    PlainValidator(_encoder),
    Words("a class or its import path, `package.module:Class`, or none"),
]
Threads = Annotated[
    int | str, PlainValidator(_threads), Words("a whole number of at least 1, or auto")
]
Table = Annotated[Mapping[str, Any], AfterValidator(_frozen)]
Variables = Annotated[
    Mapping[str, str],
    BeforeValidator(_as_text),
    AfterValidator(_frozen),
    Words("a table of names and texts"),
]
Amounts = Annotated[
    Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]],
    AfterValidator(_frozen),
    Words("a table of names and numbers of 0 or more"),
]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), Words("auto, cpu, cuda or cuda:N")
]
