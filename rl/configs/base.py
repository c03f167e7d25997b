"""Settings as frozen, validated values: the `config` decorator and what classes under it share.

    @config
    class MyConfig(AlgorithmConfig):
        horizon: Annotated[int, Field(ge=1)] = 16
        \"\"\"Steps looked ahead.\"\"\"

A field has its range in its annotation and its help in the docstring under it. Rules that concern
several fields are yielded by `problems()`. All that is wrong is told at once, as one `ConfigError`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

import pydantic
from pydantic import ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rl.configs.describe import admits, fields_of
from rl.configs.problems import problems_of
from rl.errors import ConfigError, Problem

__all__ = ["Settings", "config", "section_update"]

T = TypeVar("T")
C = TypeVar("C", bound="Settings")
P = ParamSpec("P")


def _refuse_boolean(annotation: Any, value: object) -> None:
    """Raises where True stands for a number: the validator would quietly make it 1."""
    if get_origin(annotation) is tuple and isinstance(value, list | tuple):
        for entry in value:
            _refuse_boolean(get_args(annotation)[0], entry)
    elif (
        isinstance(value, bool) and admits(annotation, int, float) and not admits(annotation, bool)
    ):
        raise PydanticCustomError("boolean", "a number is needed")


def _whole(annotation: Any, value: object) -> object:
    """Reads "1e6" as a whole number, as people write budgets of steps."""
    if not isinstance(value, str) or not admits(annotation, int) or admits(annotation, str, float):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and "e" in value.lower() else value


_OPTIONS = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    validate_default=False,
    arbitrary_types_allowed=True,
)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(pydantic.Field, dataclasses.field)
)
def config(cls: type[T]) -> type[T]:
    """Makes a class of annotated fields a frozen, keyword-only, validated value.

    Making one, also with `dataclasses.replace` or `with_<section>()`, raises `ConfigError`.
    """
    made = cast(
        "type[T]",
        pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_OPTIONS)(cls),
    )
    validating = made.__init__

    @functools.wraps(validating)
    def checked(self: Any, *args: Any, **values: Any) -> None:
        __tracebackhide__ = True
        try:
            validating(self, *args, **values)
        except pydantic.ValidationError as error:
            raise ConfigError(made.__name__, problems_of(made, error)) from None

    made.__init__ = checked  # type: ignore[method-assign]
    return made


@config
class Settings:
    """What configs and their sections share."""

    if TYPE_CHECKING:  # lets a type checker accept `dataclasses.replace`
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @field_validator("*", mode="before")
    @classmethod
    def _read_plain_values(cls, value: object, info: ValidationInfo) -> object:
        field = fields_of(cls)[info.field_name or ""]
        if isinstance(field.default, Settings) and isinstance(value, Mapping):
            return {**field.default.values(), **value}  # this class's defaults, not the section's
        _refuse_boolean(field.annotation, value)
        return _whole(field.annotation, value)

    def problems(self) -> Iterator[Problem]:
        """Yields what is wrong with the fields together; each alone is fine when this is called."""
        yield from ()

    def checked(self, more: Iterable[Problem] = ()) -> Self:
        """This very value, if its fields also fit together.

        Asked when a config is built or read, not when it is made, so that `with_<section>()` can be
        chained in any order. Raises `ConfigError` with every rule that is broken, and with `more`,
        which the caller has found.
        """
        found = list(self.problems())
        for name, value in self.values().items():
            if isinstance(value, Settings):
                found += [Problem(f"{name}.{p.path}", p.message) for p in value.problems()]
        found += more
        if found:
            raise ConfigError(type(self).__name__, found)
        return self

    def values(self) -> dict[str, Any]:
        """The settings by name; a section is the object itself."""
        return {name: getattr(self, name) for name in fields_of(type(self))}


class section_update(Generic[P]):  # noqa: N801 - reads as a function where it is used
    """`config.with_x(...)`: a copy of a config with some settings of its section x changed."""

    def __init__(self, name: str, section: Callable[P, object]) -> None:
        self._name = name
        self.__doc__ = f"Returns a copy with some settings of `{name}` changed ({section})."

    def __get__(self, instance: C, owner: type[C]) -> Callable[P, C]:
        if instance is None:
            return self  # type: ignore[unreachable]

        def changed(*args: P.args, **changes: P.kwargs) -> C:
            if args:
                raise TypeError(f"with_{self._name}() takes settings by name, got {args}")
            current: Settings = getattr(instance, self._name)
            merged: Mapping[str, Any] = {**current.values(), **changes}
            return dataclasses.replace(instance, **{self._name: merged})

        return changed
